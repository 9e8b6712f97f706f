"""The yardstick of a GPU, on a device and with a clock that a test gives."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_dnnbench.rank import gpu_yardstick
from pytest_dnnbench.rank.gpu_yardstick import ROUNDS, Work, seconds

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


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's gap
    """Counts the operators that run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's gap
        self.calls = Counter[str]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.calls[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


def test_every_round_is_the_same_products_and_copies() -> None:
    work = Work(side=8, products=3, copied_bytes=64, copies=5)
    with Counted() as counted:
        seconds(CPU, work, GivenTimes(iter([0.01] * 1000)))
    rounds = ROUNDS + 1  # the first one loads the kernels
    assert counted.calls["aten::mm"] == 3 * rounds
    assert counted.calls["aten::copy_"] == 5 * rounds


def test_without_memory_there_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu_yardstick, "_typical_s", full)
    assert seconds(CPU, SMALL) is None
