"""The yardstick of a GPU, on a device and with a clock that a test gives."""

from collections.abc import Iterator

import pytest
import torch

from pytest_dnnbench.rank import gpu_yardstick
from pytest_dnnbench.rank.gpu_yardstick import ROUNDS, Work, seconds
from pytest_dnnbench.rank.stopwatch import HostStopwatch

CPU = torch.device("cpu")
SMALL = Work(side=8, products=1, copied_bytes=64, copies=1)


class GivenTimes:
    """A stopwatch by whose clock each round takes the next one of these seconds."""

    def __init__(self, rounds: Iterator[float]) -> None:
        self.rounds = rounds
        self.settled = self.marks = 0
        self.now = 0.0

    def mark(self) -> float:
        self.marks += 1
        if self.marks % (ROUNDS + 1) != 1:  # the first mark of each stretch ends no round
            self.now += next(self.rounds)
        return self.now

    def settle(self) -> None:
        self.settled += 1

    def seconds(self, start: float, end: float) -> float:
        return end - start


def test_rounds_are_repeated_until_they_have_taken_long_enough() -> None:
    watch = GivenTimes(iter([0.001] * 1000))
    assert seconds(CPU, SMALL, watch) == pytest.approx(0.001)
    stretches = 7  # of ROUNDS rounds: 50 ms and no more
    assert watch.settled == stretches
    assert watch.marks == stretches * (ROUNDS + 1)


def test_the_lower_quartile_leaves_out_a_disturbance_of_half_the_rounds() -> None:
    watch = GivenTimes(iter([0.02, 0.01] * 500))
    assert seconds(CPU, SMALL, watch) == pytest.approx(0.01)


def test_a_clock_that_stands_still_gives_a_figure_that_is_refused() -> None:
    assert seconds(CPU, SMALL, GivenTimes(iter([0.0] * 1000))) == 0.0


def test_more_work_takes_longer() -> None:
    once = seconds(CPU, Work(128, 1, 1 << 20, 1), HostStopwatch())
    more = seconds(CPU, Work(128, 30, 1 << 20, 30), HostStopwatch())
    assert once is not None
    assert more is not None
    assert more > 3 * once


def test_without_memory_there_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu_yardstick, "_typical_s", full)
    assert seconds(CPU, SMALL) is None
