"""The noise that the cases of a suite have in common: a prior for each case, which alone has few
launches.

Empirical Bayes: the more alike the cases' variances are, the more the prior is worth (Smyth 2004,
"Linear models and empirical Bayes methods for assessing differential expression", section 6.2).
Cases of 1% beside cases of 11% are worth little to each other, and then this changes nothing.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_dnnbench.results.statistics.noise import (
    MEMORY,
    TIME,
    Prior,
    logarithms,
    prediction_errors,
    squares_of,
)

# However alike, other cases never count for more than these degrees of freedom of this one.
_MOST_DOF = 10.0
_MOST_SESSION_DOF = 30.0
_FEWEST_CASES = 4

_ONE_SESSION = 2.0
"""What all cases together say about how sessions differ is worth no more errors of one case than
this, if they say it of one session only: that all are as fast as before may be chance once."""

Sessions = Sequence[Sequence[float]]


def pool(cases: Sequence[Sessions], prior: Prior = TIME) -> Prior:
    """The prior of each case of a suite, from per-launch values of one metric in all cases'
    sessions, oldest first.

    What cannot be estimated from the cases (fewer than four of them, no second session) stays as in
    `prior`.
    """
    spreads = [spread for spread in map(_spread, cases) if spread is not None]
    if len(spreads) < _FEWEST_CASES:
        return prior
    launch_variance, launch_dof = _common(
        [spread.launch_variance for spread in spreads], [spread.launch_dof for spread in spreads]
    )
    if launch_dof < prior.launch_dof:
        launch_variance, launch_dof = prior.launch_sd**2, prior.launch_dof
    common = Prior(math.sqrt(launch_variance), launch_dof, prior.session_ratio, prior.session_dof)
    ratio, session_dof = _session_ratio(
        [spread.scaled(common) for spread in spreads if spread.errors], prior
    )
    return Prior(math.sqrt(launch_variance), launch_dof, ratio, session_dof)


@dataclass(frozen=True, slots=True)
class _Spread:
    """One case: the variance of its launches, and its sessions' distances from their baselines,
    of logarithms; `share` is the part of the launches' variance that is in those."""

    launch_variance: float
    launch_dof: int
    errors: list[float]
    share: float

    def scaled(self, common: Prior) -> "_Scaled":
        """The errors in units of what the launches vary by, as far as the other cases say."""
        dof = self.launch_dof + common.launch_dof
        squares = self.launch_dof * self.launch_variance + common.launch_dof * common.launch_sd**2
        sd = math.sqrt(squares / dof)
        return _Scaled([error / sd for error in self.errors], dof, self.share)


@dataclass(frozen=True, slots=True)
class _Scaled:
    """The errors of one case in units of its launches' deviation, which is known to `dof` degrees
    of freedom."""

    errors: list[float]
    dof: float
    share: float

    @property
    def total(self) -> float:
        """The variance of the errors. A quotient of variances is F-distributed: its mean is dof /
        (dof - 2)."""
        return _mean_square(self.errors) * (self.dof - 2) / self.dof


def _spread(sessions: Sessions) -> _Spread | None:
    sessions = sessions[-MEMORY:]
    spreads = [squares_of(logarithms(session)) for session in sessions]
    squares, dof = sum(square for square, _ in spreads), sum(free for _, free in spreads)
    if not squares:
        return None
    errors, shares = prediction_errors(sessions)
    return _Spread(squares / dof, dof, errors, statistics.fmean(shares) if shares else 0.0)


def _session_ratio(cases: list[_Scaled], prior: Prior) -> tuple[float, float]:
    """The variance between sessions / between launches that the cases share, and its degrees of
    freedom."""
    cases = [case for case in cases if case.dof > 2]
    if len(cases) < _FEWEST_CASES:
        return prior.session_ratio, prior.session_dof
    total = statistics.fmean(case.total for case in cases)
    share = statistics.fmean(case.share for case in cases)
    if not total:
        return prior.session_ratio, prior.session_dof
    alike = _alike(cases, total)
    worth = min(alike, _independent_errors([case.errors for case in cases]))
    blended = (prior.session_dof * prior.session_ratio + worth * max(total - share, 0.0)) / (
        prior.session_dof + worth
    )
    return blended, prior.session_dof + worth


def _independent_errors(errors: list[list[float]]) -> float:
    """The number of independent errors that these are worth: a session in which all cases are
    slower together counts once.

    A single session is worth _ONE_SESSION at most."""
    together = apart = 0.0
    count = min(len(case) for case in errors)
    for session in range(1, count + 1):
        of_session = [case[-session] for case in errors]
        together += statistics.fmean(of_session) ** 2
        apart += _mean_square(of_session)
    cases = len(errors)
    correlation = max((cases * together / apart - 1) / (cases - 1), 0.0) if apart else 0.0
    independent = cases / (1 + (cases - 1) * correlation**2)
    return count * independent if count > 1 else min(independent, _ONE_SESSION)


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


def _alike(cases: Sequence[_Scaled], total: float) -> float:
    """How many degrees of freedom the variance of all cases' errors is worth for one of them, by
    the second moment. Squares, and no logarithms: a few cases whose sessions differ much are what
    matters, and errors that happen to be nearly zero are not."""
    spread = _mean_square([case.total / total for case in cases])
    chance = statistics.fmean(
        1 + 2 * (len(case.errors) + case.dof - 2) / (len(case.errors) * max(case.dof - 4, 1.0))
        for case in cases
    )
    excess = spread / chance - 1
    # A variance of inverse chi-squared of f degrees has (deviation / mean)^2 = 2 / (f - 4).
    return min(4 + 2 / excess, _MOST_SESSION_DOF) if excess > 0 else _MOST_SESSION_DOF


def _mean_square(values: list[float]) -> float:
    return statistics.fmean(value * value for value in values)
