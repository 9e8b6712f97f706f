"""Holds the clock of every rank against two others: the controller's own, and the kernel's.

    controller   begin_s ──────────────────────────────────────────────────── end_s
    rank            clock_s[0] ──┤ untimed steps, timed window ├── clock_s[1]
    kernel                    begun ──────────────────────── ended        (rank_status.py)

A rank's code can replace or slow down the clock that its window is timed with. All processes of a
machine have the same monotonic clock, so a rank's readings lie within the launch; and they lie
around the kernel's notes, so the rank's clock must count at least as much time as these. Neither
depends on how soon anybody is woken: only a tick of the kernel's is allowed for (STAMP_S).

Another node has a clock of its own. What its ranks report is moved to the controller's (`on_ours`),
by the offset that was measured before and after the launch, and its uncertainty is allowed for.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

# By name: a test module of the user's may replace the clock in `time`.
from time import monotonic

from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.function_case import MeasuredCase
from pytest_dnnbench.messages import RankReport
from pytest_dnnbench.rank_status import STAMP_S


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """A node's monotonic clock minus ours, seconds, and how far that may be off."""

    offset_s: float = 0.0
    uncertainty_s: float = 0.0

    def during(self, later: "ClockOffset") -> "ClockOffset":
        """The offset between two measurements: their middle, which is off by what either may be,
        and by how far the clocks ran apart meanwhile."""
        middle_s = (self.offset_s + later.offset_s) / 2
        apart_s = abs(self.offset_s - later.offset_s) / 2
        return ClockOffset(middle_s, apart_s + max(self.uncertainty_s, later.uncertainty_s))


def _wall_offset_s() -> float:
    return time.time() - monotonic()


@dataclass(slots=True)
class LaunchClock:
    """When a launch began and ended, by the controller's clock, and how long each rank
    timed by the kernel's, in rank order."""

    begin_s: float = field(default_factory=monotonic)
    end_s: float = 0.0
    timings_s: tuple[float, ...] = ()
    offsets: tuple[ClockOffset, ...] = ()
    """How the clock of each rank's node differs from ours; empty where all are on this machine."""
    _offset_s: float = field(default_factory=_wall_offset_s)

    def stop(self, timings_s: Sequence[float]) -> None:
        """The ranks have reported. The kernel's notes are of the wall clock: if that was set in
        between, they say nothing."""
        self.end_s = monotonic()
        if abs(_wall_offset_s() - self._offset_s) < STAMP_S:
            self.timings_s = tuple(timings_s)


def phases_of(reports: Sequence[RankReport], clock: LaunchClock, now_s: float) -> dict[str, float]:
    """Where the time of a launch went, seconds by phase: of the rank that reported last. "fork" is
    the time until that rank ran, "end" what came after the last report, until `now_s`. Empty where
    ranks did not say. Times are by our clock, and no rank's figure is relied on."""
    with_phases = [report for report in reports if report.phases_s]
    if not with_phases:
        return {}
    last = max(with_phases, key=lambda report: report.began_s + sum(report.phases_s.values()))
    spent = {"fork": last.began_s - clock.begin_s, **last.phases_s, "end": now_s - clock.end_s}
    return {name: max(0.0, each) for name, each in spent.items() if math.isfinite(each)}


def on_ours(reports: Sequence[RankReport], offsets: Sequence[ClockOffset]) -> list[RankReport]:
    """The reports with their times by the controller's clock."""
    if not offsets:
        return list(reports)
    return [
        replace(
            report,
            began_s=report.began_s - offset.offset_s,
            window_start_s=report.window_start_s - offset.offset_s,
            window_end_s=report.window_end_s - offset.offset_s,
            step_end_s=tuple(end_s - offset.offset_s for end_s in report.step_end_s),
            clock_s=(report.clock_s[0] - offset.offset_s, report.clock_s[1] - offset.offset_s),
        )
        for report, offset in zip(reports, offsets, strict=True)
    ]


def check_clocks(case: MeasuredCase, reports: Sequence[RankReport], clock: LaunchClock) -> None:
    """Raises WrongResult when a rank's clock cannot be right. The times are by our clock."""
    offsets = clock.offsets or (ClockOffset(),) * len(reports)
    for report, offset in zip(reports, offsets, strict=True):
        before_s, after_s = report.clock_s
        begin_s, end_s = clock.begin_s - offset.uncertainty_s, clock.end_s + offset.uncertainty_s
        # Not "or": a NaN makes every comparison false.
        if not begin_s <= before_s <= after_s <= end_s:
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
