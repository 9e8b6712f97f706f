"""How long the machine was suspended (asleep), from clocks that differ in whether they count it.

Linux's CLOCK_BOOTTIME runs on while the machine sleeps, CLOCK_MONOTONIC stands still. Their
difference is the time asleep since the machine started; its growth over a run is the time asleep
during the run.
"""

from collections.abc import Iterable, Iterator

# By name: a clock is taken before any code of the user can replace it in `time`.
from time import CLOCK_BOOTTIME, CLOCK_MONOTONIC, clock_gettime

_READINGS = 5

Reading = tuple[float, float, float]
"""CLOCK_MONOTONIC, CLOCK_BOOTTIME and CLOCK_MONOTONIC again, read in this order, in seconds."""


def asleep_s() -> float:
    """Seconds that the machine has slept since it started, to within some microseconds."""
    return difference_s(_readings())


def difference_s(readings: Iterable[Reading]) -> float:
    """The difference of the two clocks, from the reading that took the least time.

    A process that loses its core between two clocks sees them differ although nothing slept. The
    two outer values bound how long that was: the quickest of several readings is the most exact.
    """
    quickest = min(readings, key=lambda reading: reading[2] - reading[0])
    return quickest[1] - quickest[0]


def _readings() -> Iterator[Reading]:
    for _ in range(_READINGS):
        yield (
            clock_gettime(CLOCK_MONOTONIC),
            clock_gettime(CLOCK_BOOTTIME),
            clock_gettime(CLOCK_MONOTONIC),
        )
