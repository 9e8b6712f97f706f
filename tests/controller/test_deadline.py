"""The deadline of a launch stands still while this process is stopped, and only then."""

import pytest

from pytest_dnnbench.controller.deadline import LOOK_S, Deadline


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_time_that_is_looked_at_counts() -> None:
    clock = Clock()
    deadline = Deadline(8.0, clock)
    for _ in range(8):
        assert deadline.left_s() > 0
        clock.now_s += LOOK_S
    assert deadline.left_s() == 0


@pytest.mark.parametrize("stop_s", [2.0, 30.0, 3600.0])
def test_a_stop_counts_as_one_look(stop_s: float) -> None:
    clock = Clock()
    deadline = Deadline(8.0, clock)
    clock.now_s += 0.5
    assert deadline.left_s() == 7.5
    clock.now_s += stop_s
    assert deadline.left_s() == pytest.approx(7.5 - LOOK_S)


def test_a_late_wake_up_of_a_busy_machine_counts_whole() -> None:
    clock = Clock()
    deadline = Deadline(8.0, clock)
    clock.now_s += LOOK_S + 0.4
    assert deadline.left_s() == pytest.approx(8.0 - LOOK_S - 0.4)
