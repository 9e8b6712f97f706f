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
_MOST_ERRORS = 2.0
_FEWEST_CASES = 4

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
    ratio, session_dof = _session_ratio(
        [spread for spread in spreads if spread.errors and spread.launch_dof > 2], prior
    )
    return Prior(math.sqrt(launch_variance), launch_dof, ratio, session_dof)


@dataclass(frozen=True, slots=True)
class _Spread:
    """One case: the variance of its launches, and its sessions' distances from their baselines in
    units of that."""

    launch_variance: float
    launch_dof: int
    errors: list[float]
    share: float


def _spread(sessions: Sessions) -> _Spread | None:
    sessions = sessions[-MEMORY:]
    spreads = [squares_of(logarithms(session)) for session in sessions]
    squares, dof = sum(square for square, _ in spreads), sum(free for _, free in spreads)
    if not squares:
        return None
    errors, shares = prediction_errors(sessions)
    sd = math.sqrt(squares / dof)
    return _Spread(
        sd**2, dof, [error / sd for error in errors], statistics.fmean(shares) if shares else 0.0
    )


def _session_ratio(cases: list[_Spread], prior: Prior) -> tuple[float, float]:
    """The variance between sessions / between launches that the cases share, and its degrees of
    freedom."""
    if len(cases) < _FEWEST_CASES:
        return prior.session_ratio, prior.session_dof
    # A quotient of variances is F-distributed: its mean is dof / (dof - 2).
    totals = [_mean_square(case.errors) * (case.launch_dof - 2) / case.launch_dof for case in cases]
    total, share = statistics.fmean(totals), statistics.fmean(case.share for case in cases)
    if not total:
        return prior.session_ratio, prior.session_dof
    alike = _common(
        [max(case_total, 1e-6 * total) for case_total in totals],
        [len(case.errors) for case in cases],
    )[1]
    worth = min(alike, _independent_errors([case.errors for case in cases]))
    blended = (prior.session_dof * prior.session_ratio + worth * max(total - share, 0.0)) / (
        prior.session_dof + worth
    )
    return blended, prior.session_dof + worth


def _independent_errors(errors: list[list[float]]) -> float:
    """The number of independent errors that these are worth: a session in which all cases are
    slower together counts once.

    Never more than two a session, for a machine has other days than those stored."""
    together = apart = 0.0
    count = min(len(case) for case in errors)
    for session in range(1, count + 1):
        of_session = [case[-session] for case in errors]
        together += statistics.fmean(of_session) ** 2
        apart += _mean_square(of_session)
    cases = len(errors)
    correlation = max((cases * together / apart - 1) / (cases - 1), 0.0) if apart else 0.0
    return count * min(cases / (1 + (cases - 1) * correlation**2), _MOST_ERRORS)


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


def _mean_square(values: list[float]) -> float:
    return statistics.fmean(value * value for value in values)
