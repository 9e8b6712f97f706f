"""A clock on which only work takes time: no other process can make a step of a timed run longer."""

import pytest

from pytest_dnnbench.rank import timed_run, timed_window


class WorkedClock:
    """Seconds of work so far, in a process."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        """Stands for time.monotonic."""
        return self.now_s

    def work(self, seconds: float) -> None:
        """Takes so long."""
        self.now_s += seconds


CLOCK = WorkedClock()


def time_by_work(patch: pytest.MonkeyPatch) -> None:
    """Lets timed runs in this process use CLOCK, from 0 on."""
    CLOCK.now_s = 0.0
    for module in (timed_run, timed_window):
        patch.setattr(module, "monotonic", CLOCK.monotonic)
