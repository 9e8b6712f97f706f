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

# A reach is known to this share of itself, after some six steps.
_EXACT, _MOST_STEPS = 1e-5, 50


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
        return self.error * _reach(alpha, self.dof, self.factors) if self.error else 0.0

    def below(self, difference: float) -> float:
        """The probability that chance alone stays below a difference."""
        if not self.error:
            return 0.5 + 0.5 * (difference > 0) - 0.5 * (difference < 0)
        beyond = _Tail(self.dof, self.factors).beyond(abs(difference) / self.error)
        return 1 - beyond if difference > 0 else beyond


@lru_cache(4096)  # a verdict asks for the same several times, and cases that are alike too
def _reach(alpha: float, dof: float, factors: Factors) -> float:
    """In units of the error: by the rule of false position on the logarithm of the probability,
    whose curve is nearly straight, halving the weight of an end that stays (Illinois)."""
    from scipy.special import stdtrit

    low, high = 0.0, -float(stdtrit(dof, alpha)) * max(factor for factor, _ in factors)
    if len(factors) == 1 or not high:
        return high
    tail = _Tail(dof, factors)
    above, under = math.log(0.5 / alpha), math.log(tail.beyond(high) / alpha)
    for _ in range(_MOST_STEPS):
        middle = high + (high - low) * under / (above - under)
        excess = math.log(tail.beyond(middle) / alpha)
        if excess > 0:
            low, above, under = middle, excess, under / 2
        else:
            high, above, under = middle, above / 2, excess
        if high - low <= _EXACT * high or abs(excess) <= _EXACT:
            return middle
    return high


class _Tail:
    """The upper tail of errors that are larger by one of the factors."""

    def __init__(self, dof: float, factors: Factors) -> None:
        import numpy as np
        from scipy.special import stdtr

        self._dof, self._stdtr = dof, stdtr
        sizes, self._chances = np.array(factors).T
        self._scales = -1 / sizes

    def beyond(self, distance: float) -> float:
        """The probability of more than this."""
        return float(self._chances @ self._stdtr(self._dof, distance * self._scales))


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
