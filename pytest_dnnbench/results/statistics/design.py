"""What is known of a comparison before it is made: its standard error, the limit that it supports,
the launches that it takes.

Letters: n launches now; K latest sessions of the history; alpha the false-alarm rate of one test; t
a quantile of Student's distribution. `docs/statistics.md` derives the formulas.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pytest_dnnbench.results.statistics.false_alarms import SCREEN_ALPHA
from pytest_dnnbench.results.statistics.noise import WINDOW, Noise, median_variance

FEWEST_LAUNCHES = 3
"""The median of fewer launches does not survive a single outlier."""

MOST_LAUNCHES = 20
"""A session is planned with no more launches of a case than this."""


@dataclass(frozen=True, slots=True)
class Precision:
    """How exactly a difference of logarithms is estimated: its standard error, and the degrees of
    freedom of that."""

    error: float
    dof: float

    def reach(self, alpha: float) -> float:
        """How far chance alone takes the difference to one side with probability alpha."""
        from scipy.special import stdtrit

        return -float(stdtrit(self.dof, alpha)) * self.error

    def below(self, difference: float) -> float:
        """The probability that chance alone stays below a difference."""
        from scipy.special import stdtr

        if not self.error:
            return 0.5 + 0.5 * (difference > 0) - 0.5 * (difference < 0)
        return float(stdtr(self.dof, difference / self.error))


def precision(noise: Noise, launches: int, history: Sequence[int] = ()) -> Precision:
    """The precision of the difference between a session of this many launches and its baseline.

    `history` holds the number of launches of each stored session, oldest first. Without one, the
    precision is that of the session alone.
    """
    latest = history[-WINDOW:]
    share = median_variance(launches)
    sessions = 1.0
    if latest:
        spread = median_variance(len(latest))
        share += spread * sum([median_variance(count) for count in latest]) / len(latest)
        sessions += spread
    within = share * noise.launch_sd**2
    between = sessions * noise.session_sd**2
    variance = within + between
    if not variance:
        return Precision(0.0, noise.launch_dof)
    # Satterthwaite's degrees of freedom for two parts whose errors may go together.
    loss = within / math.sqrt(noise.launch_dof) + between / math.sqrt(noise.session_dof)
    return Precision(math.sqrt(variance), (variance / loss) ** 2)


def launches_for(
    effect: float,
    noise: Noise,
    *,
    limit: float,
    alpha: float,
    power: float = 0.95,
    history: Sequence[int] = (),
    confirmation: bool = True,
) -> int | None:
    """The launches that a session needs so that a change for the worse of `effect` fails with
    probability `power`.

    `effect` and `limit` (the smallest interesting effect) are positive fractions; `alpha` is the
    rate of one test. Without a history, the baseline is one session of as many launches. With
    confirmation, the session's own launches need only raise the suspicion; as many fresh ones then
    decide. None when no number of launches up to MOST_LAUNCHES is enough: the limit is too near the
    effect, sessions differ too much, or too few of them are stored.
    """
    shift, bound = math.log1p(effect), -math.log1p(-limit)

    def enough(launches: int) -> bool:
        past = history or (launches,)
        if not confirmation:
            return _miss(noise, launches, past, shift, bound, alpha) <= 1 - power
        first = _miss(noise, launches, past, shift, bound, SCREEN_ALPHA)
        again = _miss(noise, launches, past, shift, bound, 0.5)
        both = _miss(noise, 2 * launches, past, shift, bound, alpha)
        return first + again + both <= 1 - power

    counts = range(FEWEST_LAUNCHES, MOST_LAUNCHES + 1)
    place = bisect_left(counts, True, key=enough)
    return counts[place] if place < len(counts) else None


def _miss(
    noise: Noise, launches: int, history: Sequence[int], shift: float, bound: float, alpha: float
) -> float:
    """The probability that a true shift stays under the limit."""
    planned = replace(noise, launch_dof=noise.launch_dof + launches - 1)
    exactness = precision(planned, launches, history)
    return exactness.below(max(bound, exactness.reach(alpha)) - shift)
