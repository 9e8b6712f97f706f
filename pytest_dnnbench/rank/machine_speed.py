"""How fast main memory and the links between ranks are, for `dnnbench machine`. The cores' speed is
the yardstick's (yardstick.py)."""

import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from pytest_dnnbench.messages import Place

_COPIED_BYTES = 256 * 2**20
"""Larger than the caches of a processor."""

REDUCED_BYTES = 16 * 2**20
_ROUNDS = 15


def copied_bytes_s(place: Place) -> float:
    """Bytes that all cores together read and write in a second, copying main memory."""
    torch.set_num_threads(place.threads)
    source = torch.ones(_COPIED_BYTES // 4)
    copy = torch.empty_like(source)
    return 2 * _COPIED_BYTES / _typical_s(lambda: copy.copy_(source))


def all_reduce_s() -> float:
    """Seconds of an all-reduce of REDUCED_BYTES by this rank's clock, in a group of ranks."""
    values = torch.zeros(REDUCED_BYTES // 4)

    def reduce() -> None:
        dist.all_reduce(values)

    return _typical_s(reduce, dist.barrier)


def _typical_s(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """The median over the rounds, after two that are not timed."""
    times = []
    for number in range(_ROUNDS + 2):
        before()
        start = time.perf_counter()
        work()
        if number >= 2:
            times.append(time.perf_counter() - start)
    return statistics.median(times)
