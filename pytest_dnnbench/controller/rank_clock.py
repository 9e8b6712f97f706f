"""Holds the clock of every rank against two others: the controller's own, and the kernel's.

    controller   begin_s ──────────────────────────────────────────────────── end_s
    rank            clock_s[0] ──┤ untimed steps, timed window ├── clock_s[1]
    kernel                    begun ──────────────────────── ended        (rank_status.py)

A rank's code can replace or slow down the clock that its window is timed with. All processes of a
machine have the same monotonic clock, so a rank's readings lie within the launch; and they lie
around the kernel's notes, so the rank's clock must count at least as much time as these. Neither
depends on how soon anybody is woken: only a tick of the kernel's is allowed for (STAMP_S).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

# By name: a test module of the user's may replace the clock in `time`.
from time import monotonic

from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.function_case import MeasuredCase
from pytest_dnnbench.messages import RankReport
from pytest_dnnbench.rank_status import STAMP_S


def _wall_offset_s() -> float:
    return time.time() - monotonic()


@dataclass(slots=True)
class LaunchClock:
    """When a launch began and ended, by the controller's clock, and how long each rank
    timed by the kernel's, in rank order."""

    begin_s: float = field(default_factory=monotonic)
    end_s: float = 0.0
    timings_s: tuple[float, ...] = ()
    _offset_s: float = field(default_factory=_wall_offset_s)

    def stop(self, timings_s: Sequence[float]) -> None:
        """The ranks have reported. The kernel's notes are of the wall clock: if that was set in
        between, they say nothing."""
        self.end_s = monotonic()
        if abs(_wall_offset_s() - self._offset_s) < STAMP_S:
            self.timings_s = tuple(timings_s)


def check_clocks(case: MeasuredCase, reports: Sequence[RankReport], clock: LaunchClock) -> None:
    """Raises WrongResult when a rank's clock cannot be right."""
    for report in reports:
        before_s, after_s = report.clock_s
        # Not "or": a NaN makes every comparison false.
        if not clock.begin_s <= before_s <= after_s <= clock.end_s:
            raise WrongResult(
                f"{_clock_of(case, report)} read {before_s - clock.begin_s:.3f} s and"
                f" {after_s - clock.begin_s:.3f} s after the launch began at the two ends of its"
                f" timed run, and the launch took {clock.end_s - clock.begin_s:.3f} s: {_FIX}"
            )
    for report, timing_s in zip(reports, clock.timings_s, strict=False):
        before_s, after_s = report.clock_s
        if after_s - before_s < timing_s - STAMP_S:
            raise WrongResult(
                f"{_clock_of(case, report)} counted {after_s - before_s:.3f} s for its timed"
                f" run, and the kernel {timing_s:.3f} s: {_FIX}"
            )


def _clock_of(case: MeasuredCase, report: RankReport) -> str:
    return f"{case.label}: the clock of rank {report.rank}"


_FIX = (
    "its times mean nothing; look for code that replaces a clock (time.monotonic, freezegun,"
    " libfaketime) on the ranks"
)
