"""The yardstick of a GPU: a small fixed workload, which takes longer only when the GPU is slower.

After a launch, each rank runs it on its own GPU when all ranks are done: products of matrices on
the tensor cores, and copies larger than the caches. It runs in the rank, whose context and
libraries are there already: a process of its own would need most of a second to make them again.
It thus sees the clock and the heat that the case has left, the same in every session of the case.
Not here: the yardstick of cores (yardstick.py).
"""

import statistics
from dataclasses import dataclass
from itertools import pairwise

import torch

from pytest_dnnbench.messages import Place
from pytest_dnnbench.rank import rank_phase
from pytest_dnnbench.rank.group import take_place
from pytest_dnnbench.rank.stopwatch import Stopwatch, stopwatch

ENOUGH_S = 0.05
"""How long rounds are repeated."""

ROUNDS = 8
"""Rounds that are queued together: the host never waits inside them."""


@dataclass(frozen=True, slots=True)
class Work:
    """One round: so many products of square matrices with this side, and so many copies of a tensor
    of so many bytes. By default about 1.5 ms on an H200; 350 MB are needed."""

    side: int = 4096
    products: int = 4
    copied_bytes: int = 128 * 2**20
    copies: int = 8


def measure(place: Place) -> float | None:
    """Seconds of the yardstick in a rank that has run nothing else; as `seconds`."""
    take_place(place)
    return seconds(torch.device(place.device))


def seconds(
    device: torch.device, work: Work = Work(), watch: Stopwatch | None = None
) -> float | None:
    """Seconds of one round by the device's own clock: the lower quartile over the rounds of
    ENOUGH_S, at least ROUNDS. None where the device has no memory left for it."""
    rank_phase.enter("yardstick")
    try:
        return _typical_s(device, work, watch or stopwatch(device))
    except torch.OutOfMemoryError:
        return None


def _typical_s(device: torch.device, work: Work, watch: Stopwatch) -> float:
    # Half precision: every GPU with tensor cores multiplies it on them, whatever the case's types.
    # Random numbers, the same every time: of equal numbers a GPU needs less power, and is faster.
    numbers = torch.Generator(device).manual_seed(0)
    shape = (work.side, work.side)
    factor = torch.rand(shape, generator=numbers, device=device).to(torch.float16)
    product = torch.empty_like(factor)
    source = torch.ones(work.copied_bytes // 4, device=device)
    copy = torch.empty_like(source)

    def one_round() -> None:
        for _ in range(work.products):
            torch.mm(factor, factor, out=product)
        for _ in range(work.copies):
            copy.copy_(source)

    with torch.no_grad():
        one_round()  # loads the kernels
        times: list[float] = []
        while sum(times) < ENOUGH_S:
            marks = [watch.mark()]
            for _ in range(ROUNDS):
                one_round()
                marks.append(watch.mark())
            watch.settle()
            rounds = [watch.seconds(*pair) for pair in pairwise(marks)]
            if not min(rounds) > 0:
                break  # a clock that stands still would never end this
            times += rounds
    return float(statistics.quantiles(times, n=4)[0]) if times else 0.0
