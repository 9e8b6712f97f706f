"""Deadline: the end of a launch's time, on a clock that stands still while this process does.

A pytest that is stopped (Ctrl-Z, a debugger, a frozen container) and continued finds the clock far
ahead. The time that it was stopped is no time in which ranks failed to report: often they were
stopped as well.
"""

import time
from collections.abc import Callable

LOOK_S = 1.0
"""The longest that its user may wait between two looks; a longer gap was a stop."""

_SLACK_S = 0.5
"""A gap may be that much longer on a busy machine."""


class Deadline:
    """`timeout_s` from when it is made. `clock` gives seconds."""

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked_s = clock()
        self._at_s = self._looked_s + timeout_s

    def left_s(self) -> float:
        """The seconds that are left, 0 when the time is up. To be called at least every LOOK_S."""
        now_s = self._clock()
        gap_s, self._looked_s = now_s - self._looked_s, now_s
        if gap_s > LOOK_S + _SLACK_S:
            self._at_s += gap_s - LOOK_S
        return max(0.0, self._at_s - now_s)
