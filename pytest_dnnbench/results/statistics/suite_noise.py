"""The noise that the cases of a suite have in common: a prior for each case, which alone has few
launches.

Empirical Bayes. Of launches: the more alike the cases' variances are, the more the prior is worth
(Smyth 2004, "Linear models and empirical Bayes methods for assessing differential expression",
section 6.2). Cases of 1% beside cases of 11% are worth little to each other, and then this changes
nothing. Of sessions: how many of the cases have sessions that differ much is the chance that one
of them has (Robbins 1956, "An empirical Bayes approach to statistics"; the shares by Laird 1978,
"Nonparametric maximum likelihood estimation of a mixing distribution").
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from pytest_dnnbench.metrics import Better
from pytest_dnnbench.results.statistics.noise import (
    MEMORY,
    TIME,
    Prior,
    Ratios,
    Spread,
    likelihoods,
    spread_of,
)

# However alike, other cases never count for more than these degrees of freedom of this one.
_MOST_DOF = 10.0
_FEWEST_CASES = 4

_ASSUMED_CASES = 1.0
"""What is assumed of how sessions differ counts as much as this many cases. Less would find more
with three and four stored sessions, and raise more false alarms (docs/statistics.md)."""

_ONE_SESSION = 2.0
"""All cases together count for no more than this many, if they say how sessions differ of one
session only: that all are as fast as before may be chance once."""

_ASSUMED_FIRST = 8.0
"""As _ASSUMED_CASES, at a first comparison. With 4 in its place, a case that is alone restless
raises false alarms in more than 1% of the sessions (docs/statistics.md)."""

FEWEST_FIRST = 12
"""In smaller suites large changes are found all the same, and this would only add false alarms."""

_LARGE = 4.0
"""Sessions that differ by so many times what launches do, or more, decide how far chance alone
takes a case at a first comparison."""

# Each round of expectation-maximisation brings the shares nearer to their limit; by this one they
# move by less than a hundredth.
_ROUNDS = 25

Sessions = Sequence[Sequence[float]]


def pool(cases: Sequence[Sessions], prior: Prior = TIME) -> Prior:
    """The prior of each case of a suite, from per-launch values of one metric in all cases'
    sessions, oldest first.

    What cannot be estimated from the cases (fewer than four of them, no second session) stays as in
    `prior`.
    """
    spreads = [spread_of(sessions[-MEMORY:]) for sessions in cases]
    spreads = [spread for spread in spreads if spread.squares]
    if len(spreads) < _FEWEST_CASES:
        return prior
    launch_variance, launch_dof = _common(
        [spread.squares / spread.dof for spread in spreads], [spread.dof for spread in spreads]
    )
    if launch_dof < prior.launch_dof:
        launch_variance, launch_dof = prior.launch_sd**2, prior.launch_dof
    common = Prior(math.sqrt(launch_variance), launch_dof, prior.ratios)
    return replace(common, ratios=_ratios([each for each in spreads if each.errors], common))


def calmer(
    prior: Prior, cases: Sequence[tuple[Sequence[float], Sequence[float]]], better: Better
) -> Prior:
    """The prior of each case at its first comparison, from per-launch values of one metric of all
    cases: in their only stored session, and now.

    Where nothing has changed, the stored session and the present one are alike, so that a case is
    as often and as much better now as it is worse. What became slower only makes cases worse. So
    those that are better say how much sessions differ, each for two cases; none of them is judged
    for having become worse. Where too few are better, as when the machine or a framework made all
    slower, or where they differ much, the prior stays.
    """
    if len(cases) < FEWEST_FIRST:
        return prior
    sign = 1 if better == "higher" else -1
    spreads = [(spread_of([stored]), spread_of([stored, now])) for stored, now in cases]
    better_now = [(own, both) for own, both in spreads if sign * both.errors[0] > 0]
    if not better_now:
        return prior
    likely = [
        likelihoods(both.errors, both.shares, *_launches(own, prior), _values(prior.ratios))
        for own, both in better_now
    ]
    ratios = _shares(likely, prior.ratios, 2.0 * len(better_now), _ASSUMED_FIRST)
    return replace(prior, ratios=ratios) if _large(ratios) < _large(prior.ratios) else prior


def _large(ratios: Ratios) -> float:
    return math.fsum(chance for ratio, chance in ratios if ratio >= _LARGE)


def _values(ratios: Ratios) -> list[float]:
    return [ratio for ratio, _ in ratios]


def _launches(case: Spread, common: Prior) -> tuple[float, float]:
    """The variance of a case's launches as the other cases would have it, and its degrees of
    freedom."""
    dof = case.dof + common.launch_dof
    return (case.squares + common.launch_dof * common.launch_sd**2) / dof, dof


def _ratios(cases: list[Spread], prior: Prior) -> Ratios:
    """How often the sessions of a case differ by each ratio.

    A few cases whose sessions differ much, among many whose do not, leave every case a small chance
    to be such a one, until its own sessions have shown that it is not.
    """
    if len(cases) < _FEWEST_CASES:
        return prior.ratios
    values = _values(prior.ratios)
    likely = [
        likelihoods(case.errors, case.shares, *_launches(case, prior), values) for case in cases
    ]
    return _shares(likely, prior.ratios, _independent_cases(cases, prior), _ASSUMED_CASES)


def _shares(
    likely: Sequence[Sequence[float]], assumed: Ratios, weight: float, assumed_cases: float
) -> Ratios:
    """The share of the cases of which each ratio is true, by expectation-maximisation: `likely` is
    how well each explains each case. All cases together are worth `weight` cases, and what is
    assumed `assumed_cases` more."""
    import numpy as np

    explained, before = np.array(likely), np.array([chance for _, chance in assumed])
    shares = before
    for _ in range(_ROUNDS):
        of_cases = explained * shares
        of_cases /= of_cases.sum(axis=1, keepdims=True)
        shares = (assumed_cases * before + weight * of_cases.mean(axis=0)) / (
            assumed_cases + weight
        )
    return tuple(zip(_values(assumed), shares.tolist(), strict=True))


def _independent_cases(cases: list[Spread], prior: Prior) -> float:
    """The number of independent cases that these are worth: those that are all slower in the same
    sessions count as few."""
    import numpy as np

    sessions = min(len(case.errors) for case in cases)
    errors = np.array(
        [np.array(case.errors[-sessions:]) / math.sqrt(_launches(case, prior)[0]) for case in cases]
    )
    together = float((errors.mean(axis=0) ** 2).sum())
    apart = float((errors**2).mean(axis=0).sum())
    count = len(cases)
    correlation = max((count * together / apart - 1) / (count - 1), 0.0) if apart else 0.0
    independent = count / (1 + (count - 1) * correlation**2)
    return independent if sessions > 1 else min(independent, _ONE_SESSION)


def _common(variances: list[float], dofs: Sequence[int]) -> tuple[float, float]:
    """The centre of the true variances and its degrees of freedom for each case, by moments of
    logarithms."""
    from scipy.special import polygamma, psi

    logs = [
        math.log(variance) - psi(dof / 2) + math.log(dof / 2)
        for variance, dof in zip(variances, dofs, strict=True)
    ]
    excess = statistics.variance(logs) - statistics.fmean(
        float(polygamma(1, dof / 2)) for dof in dofs
    )
    worth = _MOST_DOF
    while worth > 0.5 and polygamma(1, worth / 2) < excess:
        worth -= 0.5
    return math.exp(statistics.fmean(logs) + psi(worth / 2) - math.log(worth / 2)), worth
