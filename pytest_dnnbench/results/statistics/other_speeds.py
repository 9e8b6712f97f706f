"""Stored sessions in which the machine itself ran at another speed, by its yardstick: a night on
which it was hot, or shared.

Every case is slower in such a session, so it says nothing of how the sessions of a case differ. One
of them among twelve would let no change below a quarter stand out for as long as it counts. The
yardstick knows nothing of a case: leaving sessions out by it takes sides for none. What a change of
the machine explains in the session that is judged, results/verdicts/machine_speed.py decides.
"""

import math
import statistics
from collections.abc import Sequence
from itertools import takewhile

FEWEST = 5
"""Sessions with a yardstick from which on it is clear what the machine's usual speed is."""

SMALLEST = 0.05
"""A session is left out from this difference of the yardstick on: smaller ones are the noise that
verdicts are about."""

_FAR = 5.0
"""And only where it is as many deviations (of the middle half, scaled to the normal distribution)
from the middle: of a machine whose speed varies, all sessions count."""

_NORMAL_MAD = 1.4826

_MOST = 0.25
"""Of the sessions: more of them are no exceptions."""


def other_speeds(yardsticks_s: Sequence[float | None]) -> dict[int, float]:
    """The sessions, by their place, in which the machine ran at another speed than in most, with
    the difference as a fraction: below zero for a slower machine. `yardsticks_s` are the seconds of
    each session, oldest first; None: it has none, and counts. The newest sessions are no exceptions
    once there are two: the machine has another speed from then on."""
    logs = {place: math.log(value) for place, value in enumerate(yardsticks_s) if value}
    if len(logs) < FEWEST:
        return {}
    middle = statistics.median(logs.values())
    spread = _NORMAL_MAD * statistics.median(abs(value - middle) for value in logs.values())
    far = max(math.log1p(SMALLEST), _FAR * spread)
    odd = {place: value for place, value in logs.items() if abs(value - middle) > far}
    newest = list(takewhile(odd.__contains__, reversed(logs)))
    for place in newest if len(newest) > 1 else ():
        del odd[place]
    if len(odd) > _MOST * len(logs):
        return {}
    return {place: math.exp(middle - value) - 1 for place, value in odd.items()}
