"""What is known of a comparison before it is made: its standard error, the limit that it supports,
the launches that it takes.

Letters: n launches now; K latest sessions of the history; alpha the false-alarm rate of one test; t
a quantile of Student's distribution. `docs/statistics.md` derives the formulas.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

from pytest_dnnbench.results.statistics.false_alarms import SCREEN_ALPHA
from pytest_dnnbench.results.statistics.noise import WINDOW, Noise, median_variance

FEWEST_LAUNCHES = 3
"""The median of fewer launches does not survive a single outlier."""

MOST_LAUNCHES = 20
"""A session is planned with no more launches of a case than this."""


Factors: TypeAlias = tuple[tuple[float, float], ...]

# The probability of a reach is alpha to this share of it, after some five steps.
_EXACT, _MOST_STEPS = 1e-9, 100

_LEAST_ALPHA = 1e-200
"""A probability below this counts as this: the density of a tail of less is no number any more."""


@dataclass(frozen=True, slots=True)
class Precision:
    """How exactly a difference of logarithms is estimated: its standard error, and the degrees of
    freedom of that. `factors`: by how much the error may be larger, each with its chance, which add
    up to 1."""

    error: float
    dof: float
    factors: Factors = ((1.0, 1.0),)

    def reach(self, alpha: float) -> float:
        """How far chance alone takes the difference to one side with probability alpha, at most
        0.5."""
        if not self.error:
            return 0.0
        return self.error * _reach(max(alpha, _LEAST_ALPHA), self.dof, self.factors)

    def below(self, difference: float) -> float:
        """The probability that chance alone stays below a difference."""
        if not self.error:
            return 0.5 + 0.5 * (difference > 0) - 0.5 * (difference < 0)
        beyond = _Tail(self.dof, self.factors).beyond(abs(difference) / self.error)
        return 1 - beyond if difference > 0 else beyond


@lru_cache(4096)  # a verdict asks for the same several times, and cases that are alike too
def _reach(alpha: float, dof: float, factors: Factors) -> float:
    """In units of the error: by Newton's rule on the logarithms of distance and probability, whose
    curve is nearly straight far out; where a step leaves what is known to hold the reach, it goes
    to the middle of that."""
    from scipy.special import stdtrit

    if len(factors) == 1 or alpha == 0.5:
        return -float(stdtrit(dof, alpha)) * factors[0][0]
    tail = _Tail(dof, factors)
    distance = low = tail.least(alpha)
    high = math.inf
    for _ in range(_MOST_STEPS):
        beyond, slope = tail.at(distance)
        excess = math.log(beyond / alpha)
        if abs(excess) <= _EXACT:
            break
        low, high = (distance, high) if excess > 0 else (low, distance)
        step = math.exp(min(excess / slope, 1.0))
        inside = low < distance * step < high
        distance = distance * step if inside else math.sqrt(low * min(high, 4 * low))
    return distance


class _Tail:
    """The upper tail of errors that are larger by one of the factors."""

    def __init__(self, dof: float, factors: Factors) -> None:
        import numpy as np
        from scipy.special import stdtr

        self._dof, self._stdtr = dof, stdtr
        self._sizes, self._chances = np.array(factors).T
        self._scales = -1 / self._sizes

    def beyond(self, distance: float) -> float:
        """The probability of more than this."""
        return float(self._chances @ self._stdtr(self._dof, distance * self._scales))

    def at(self, distance: float) -> tuple[float, float]:
        """The probability of more than this distance, above zero, and how steeply its logarithm
        falls with that of the distance."""
        import numpy as np

        dof, places = self._dof, distance * self._scales
        beyond = float(self._chances @ self._stdtr(dof, places))
        heights = np.exp(-(dof + 1) / 2 * np.log1p(places * places / dof))
        density = _student_height(dof) * float(self._chances @ (heights * -places))
        return beyond, density / beyond

    def least(self, alpha: float) -> float:
        """A distance above zero that chance passes with a probability of alpha at least, alpha
        below 0.5: each of the errors alone, taken for normal, whose tail is the lightest."""
        import numpy as np
        from scipy.special import ndtri

        # A chance of next to nothing makes the quotient infinite, and 0.5 counts.
        with np.errstate(over="ignore"):
            shares = np.minimum(alpha / self._chances, 0.5)
        alone = self._sizes * -ndtri(shares)
        return max(float(alone.max()), -float(self._sizes.min() * ndtri(alpha)))


@lru_cache(256)
def _student_height(dof: float) -> float:
    """The density of Student's distribution at zero."""
    return math.exp(math.lgamma((dof + 1) / 2) - math.lgamma(dof / 2)) / math.sqrt(math.pi * dof)


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
    error = math.sqrt(share) * noise.launch_sd
    factors = tuple(
        (math.sqrt(1 + ratio * ratio * sessions / share), chance) for ratio, chance in noise.ratios
    )
    return Precision(error, noise.launch_dof, factors)


def launches_for(
    effect: float,
    noise: Noise,
    *,
    limit: float,
    alpha: float,
    power: float = 0.95,
    history: Sequence[int],
) -> int | None:
    """The launches that a session needs so that a change for the worse of `effect` fails with
    probability `power`.

    `effect` and `limit` (the smallest interesting effect) are positive fractions; `alpha` is the
    rate of one test. `history` has the launches of each stored session; where it is empty, the
    baseline is one session of as many launches. The session's own launches need only raise the
    suspicion; as many fresh ones then decide. None when no number of launches up to MOST_LAUNCHES
    is enough: the limit is too near the effect, sessions differ too much, or too few of them are
    stored.
    """
    shift, bound = math.log1p(effect), -math.log1p(-limit)

    def enough(launches: int) -> bool:
        past = history or (launches,)
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
