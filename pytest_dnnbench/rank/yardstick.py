"""The yardstick: a small work that is the same in every session and takes longer only when the
machine is slower.

Done by a process of its own after each launch on CPU ranks, with nothing of a framework or a model
in it, on every core at once: products of matrices and copies, for what cores and caches give. The
memory behind them is left out: how fast it is depends on the pages that a process happens to get.
Figures may be compared where the torch is the same, as those of the cases.
"""

import os
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from pytest_dnnbench.messages import Place
from pytest_dnnbench.rank import rank_phase

ROUNDS = 16
_SIDE = 384
_COPIED = 1 << 18
_PRODUCTS, _COPIES = 6, 48


def measure(place: Place) -> float:
    """Seconds of one round of the work, in which every thread waits for the slowest: the lower
    quartile of the rounds.

    A round takes some milliseconds, so that it feels what other work takes of the cores. The
    quartile leaves out what lasts for less than most of the rounds: cores that were idle take their
    time to come up to speed.
    """
    rank_phase.enter("yardstick")
    torch.set_num_threads(1)
    cores: list[int | None] = [*sorted(os.sched_getaffinity(0))]
    if (
        len(cores) != place.threads
    ):  # under a CPU quota the kernel chooses among more cores than it gives
        cores = [None] * place.threads
    together = threading.Barrier(place.threads)
    with ThreadPoolExecutor(place.threads) as threads:
        rounds = threads.map(_rounds, [together] * place.threads, cores)
        slowest = [max(times) for times in zip(*rounds, strict=True)]
    lower, _, _ = statistics.quantiles(slowest, n=4)
    return float(lower)


def _rounds(together: threading.Barrier, core: int | None) -> list[float]:
    if core is not None:
        os.sched_setaffinity(
            0, {core}
        )  # of this thread, lest two share a core for as long as this takes
    factor, product = torch.full((_SIDE, _SIDE), 0.5), torch.empty(_SIDE, _SIDE)
    source, copy = torch.ones(_COPIED), torch.empty(_COPIED)
    times = []
    for _ in range(ROUNDS):
        together.wait()
        start = time.perf_counter()
        for _ in range(_PRODUCTS):
            torch.mm(factor, factor, out=product)
        for _ in range(_COPIES):
            copy.copy_(source)
        times.append(time.perf_counter() - start)
    return times
