"""A clock that stands still while this thread waits for a core.

Two pieces of work that take turns on a busy machine are compared by it: other processes only ever
take the core from one of them. A sleep and input/output count, for then the thread does not ask for
a core. Not here: the time of a step, to which the machine belongs (timed_window.py), and how much
other processes used (controller/disturbance.py).
"""

import time
from pathlib import Path

SCHEDSTAT = Path("/proc/thread-self/schedstat")
"""Nanoseconds on a core, nanoseconds of waiting for one, and turns (Linux,
Documentation/scheduler/sched-stats.rst)."""


def seconds_beside_waiting(schedstat: Path = SCHEDSTAT) -> float:
    """Seconds from some moment on, without those in which this thread waited for a core; where the
    kernel does not tell, with them."""
    while True:
        before, now, after = _waited_ns(schedstat), time.perf_counter(), _waited_ns(schedstat)
        # Else the thread waited while it read, and nobody knows on which side of `now`.
        if before == after:
            return now - after / 1e9


def _waited_ns(schedstat: Path) -> int:
    try:
        _, waited_ns, _ = map(int, schedstat.read_bytes().split())
    except (OSError, ValueError):
        return 0
    return waited_ns
