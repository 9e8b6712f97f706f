"""Two sides measured in pairs: whether side B differs from side A, and by how much.

Each round launches a case once on each side, back to back and in alternating order. What both
launches of a pair have in common, as the level of the machine at that moment, cancels in

    d = log(B / A)

and Student's t is taken on the d of one metric of one case. The question may be settled before the
last round, so it is looked at several times (`looks`), and each look has its share of the test's
false-alarm rate, in proportion to the rounds since the look before it. The shares add up to the
whole rate, so that the rate holds whatever the looks have in common (Bonferroni; the spending
function is linear). The interval is split in the same way: with 95% probability it contains the
difference at every look, and so also at the one where measuring ends.

Student's t trusts the spread of few pairs. Two guards: no look comes before FIRST_LOOK, because the
fewer the pairs, the easier all of them fall by chance into one of two modes of a case; and the
signs of the pairs must agree (SIGNS_ALPHA), so that no call rests on a few large differences. Where
there are enough cases, they tell each other how much pairs vary (suite_noise.py).
`docs/side-by-side.md` has the false alarms and the power, simulated by benchmarks/against.py.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pytest_dnnbench.results.statistics.decision import INTERVAL, POWER
from pytest_dnnbench.results.statistics.design import Precision
from pytest_dnnbench.results.statistics.noise import Prior, learn
from pytest_dnnbench.results.statistics.suite_noise import pool

FIRST_LOOK = 8
"""Rounds before the first look, and the fewest of a session. If each launch falls with equal chance
into one of two modes, all of eight pairs differ in the same sense by chance once in 33,000 tests;
of six, once in 2,000, which is too often for a session of 36 cases."""

MOST_ROUNDS = 16
"""The most rounds of a session whose user gives no number."""

SIGNS_ALPHA = 0.05
"""A difference is called only if a sign test of the pairs has a smaller p-value."""

SMALLEST = 1e-4
"""A difference of 0.01% or less is none, of any metric."""

_GROWTH = 1.6
"""Each look has this many times the pairs of the one before: a look at hardly more pairs has little
to say, and takes its share of the false-alarm rate."""

_UNKNOWN = Prior(launch_sd=0.0, launch_dof=0.0)
"""Nothing is assumed: what stored sessions teach of launches says little about pairs."""

PairStatus: TypeAlias = Literal["higher", "lower", "no evidence"]


@dataclass(frozen=True, slots=True)
class Look:
    """A planned look after so many rounds; `share` is its part of a test's false-alarm rate."""

    rounds: int
    share: float


@dataclass(frozen=True, slots=True)
class PairDecision:
    """What the pairs say of B relative to A.

    `status`: B's figure is higher or lower than A's, or there is no evidence that it is either.
    `change`, `interval` (95%) and `detectable` are fractions of A's figure; `detectable`, positive,
    is the change that would have been called with 95% probability. `pairs` counts them.
    """

    status: PairStatus
    change: float
    interval: tuple[float, float]
    detectable: float
    pairs: int


def looks(most: int) -> list[Look]:
    """The planned looks of a session of at most so many rounds, FIRST_LOOK or more; the last look
    is after the last round. All but that one are after an even number of rounds, in which both
    orders of launching are equally frequent."""
    rounds = [FIRST_LOOK]
    while (following := _even(rounds[-1] * _GROWTH)) < most:
        rounds.append(following)
    rounds = [*(number for number in rounds if number < most), most]
    before = [0, *rounds[:-1]]
    return [
        Look(number, (number - earlier) / most)
        for number, earlier in zip(rounds, before, strict=True)
    ]


def pair_prior(cases: Sequence[Sequence[float]]) -> Prior:
    """What the pairs of all cases say of how much those of one case vary. Each case has its ratios
    B / A of one metric; with few cases nothing is assumed."""
    return pool([[case] for case in cases if len(case) > 1], _UNKNOWN)


def decide_pairs(
    ratios: Sequence[float],
    *,
    prior: Prior,
    alpha: float,
    share: float,
    smallest: float = SMALLEST,
) -> PairDecision:
    """Decides one metric of one case at one look, from its ratios B / A, at least two of them.

    `alpha` is the false-alarm rate of the test, for a call in either direction at any look, and
    `share` that of this look; no change of `smallest` or less is called. Raises DataError for a
    ratio without a logarithm.
    """
    noise = learn([ratios], prior)
    logs = [math.log(ratio) for ratio in ratios]
    mean = math.fsum(logs) / len(logs)
    # Other cases may say that pairs vary more than these few show, but not that they vary less.
    deviation = max(noise.launch_sd, statistics.stdev(logs))
    exactness = Precision(deviation / math.sqrt(len(logs)), noise.launch_dof)
    reach = max(smallest, exactness.reach(alpha * share / 2))
    half = exactness.reach((1 - INTERVAL) * share / 2)
    status: PairStatus = "no evidence"
    if abs(mean) > reach and signs_agree(logs, mean):
        status = "higher" if mean > 0 else "lower"
    return PairDecision(
        status=status,
        change=math.expm1(mean),
        interval=(math.expm1(mean - half), math.expm1(mean + half)),
        detectable=math.expm1(reach + exactness.reach(1 - POWER)),
        pairs=len(logs),
    )


def signs_agree(logs: Sequence[float], mean: float) -> bool:
    """Whether so many pairs have the sign of the mean that chance alone, at equal odds, gives as
    many in fewer than SIGNS_ALPHA of tests."""
    agreeing = sum(log * mean > 0 for log in logs)
    ways = sum(math.comb(len(logs), count) for count in range(agreeing, len(logs) + 1))
    return bool(ways <= SIGNS_ALPHA * 2 ** len(logs))


@dataclass(frozen=True, slots=True)
class MeanChange:
    """The geometric mean of several cases' changes, and its interval: fractions of A."""

    change: float
    interval: tuple[float, float]


def mean_change(changes: Sequence[tuple[float, tuple[float, float]]]) -> MeanChange:
    """The mean over cases, at least one: of each its change and its interval.

    What a moment does to several cases cancels in their pairs, so that their errors are taken as
    independent, and half the width of the mean's interval is the root of the sum of their squares,
    divided by their number.
    """
    count = len(changes)
    mean = math.fsum(math.log1p(change) for change, _ in changes) / count
    halves = [(math.log1p(high) - math.log1p(low)) / 2 for _, (low, high) in changes]
    half = math.hypot(*halves) / count
    return MeanChange(math.expm1(mean), (math.expm1(mean - half), math.expm1(mean + half)))


def _even(rounds: float) -> int:
    return 2 * round(rounds / 2)
