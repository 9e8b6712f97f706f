"""The yardstick: a small fixed workload, which takes longer only when the machine is slower.

After each launch on CPU ranks, a separate process runs it on every core at once: products of
matrices and copies, without any framework or model. It shows how fast cores and caches are. Main
memory is left out, since its speed depends on the pages that a process happens to get. The figures
of two sessions compare where torch is the same, as those of the cases do.
"""

import os
import statistics
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from pytest_dnnbench.messages import Place
from pytest_dnnbench.rank import rank_phase

ROUNDS = 16
_SIDE = 384
_COPIED = 1 << 18
_PRODUCTS, _COPIES = 6, 48


def measure(place: Place) -> float:
    """Seconds of one round, in which every thread waits for the slowest: the lower quartile over
    the rounds.

    A round takes some milliseconds, so that other work on the cores makes it slower. The quartile
    leaves out a disturbance of fewer than three quarters of the rounds: idle cores take a while to
    come up to speed.
    """
    rank_phase.enter("yardstick")
    torch.set_num_threads(1)
    cores = cores_of_threads(os.sched_getaffinity(0), place.threads)
    together = threading.Barrier(place.threads)
    with ThreadPoolExecutor(place.threads) as threads:
        return typical_s(list(threads.map(_rounds, [together] * place.threads, cores)))


def cores_of_threads(usable: Iterable[int], threads: int) -> list[int | None]:
    """The core of each thread; None for all where there is not one core for each thread.

    Under a CPU quota the kernel chooses among more cores than the quota gives.
    """
    cores = sorted(usable)
    return [*cores] if len(cores) == threads else [None] * threads


def typical_s(rounds: Sequence[Sequence[float]]) -> float:
    """The lower quartile, over the rounds, of the slowest thread's time. `rounds` has the times of
    each thread."""
    lower, _, _ = statistics.quantiles([max(times) for times in zip(*rounds, strict=True)], n=4)
    return float(lower)


def _rounds(together: threading.Barrier, core: int | None) -> list[float]:
    if core is not None:
        # 0 is this thread. Unpinned, two threads may share a core for the whole measurement.
        os.sched_setaffinity(0, {core})
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
