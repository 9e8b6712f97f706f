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
    cores: list[int | None] = [*sorted(os.sched_getaffinity(0))]
    # Under a CPU quota the kernel chooses among more cores than the quota gives.
    if len(cores) != place.threads:
        cores = [None] * place.threads
    together = threading.Barrier(place.threads)
    with ThreadPoolExecutor(place.threads) as threads:
        rounds = threads.map(_rounds, [together] * place.threads, cores)
        slowest = [max(times) for times in zip(*rounds, strict=True)]
    lower, _, _ = statistics.quantiles(slowest, n=4)
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
