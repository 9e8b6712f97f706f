"""Intervals over launches: of one figure, and of the ratio of two cases of one session.

The launch is the statistical unit, and the noise is that of logarithms, as for a verdict. A single
launch has no interval. These intervals leave out how sessions differ: they say how exactly one
session measured.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_dnnbench.report.runs import Result
from pytest_dnnbench.results.statistics.design import Precision
from pytest_dnnbench.results.statistics.false_alarms import alpha_per_test
from pytest_dnnbench.results.statistics.noise import learn, median_variance, prior_of

COVERAGE = 0.95
"""An interval holds the true value with this probability."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure between its bounds."""

    middle: float
    low: float
    high: float


def interval_of(result: Result, metric: str) -> Interval | None:
    """The interval of a metric of a case, over its undisturbed launches; None where too few were
    undisturbed, and where `interval` has none."""
    launches = result.launches(metric)
    return interval(launches.undisturbed, metric) if launches.enough else None


def interval(launches: Sequence[float], metric: str) -> Interval | None:
    """The interval of the median over launches; None for fewer than two launches and for values
    that have no logarithm."""
    precision = _precision(launches, metric)
    if precision is None:
        return None
    return _around(statistics.median(launches), precision, 1 - COVERAGE)


def ratio(
    ours: Sequence[float], theirs: Sequence[float], metric: str, *, comparisons: int = 1
) -> Interval | None:
    """The interval of (median of ours / median of theirs), wider where it is one of several
    comparisons."""
    our, their = _precision(ours, metric), _precision(theirs, metric)
    if our is None or their is None:
        return None
    # Welch and Satterthwaite: the two errors need not be alike.
    total = math.fsum((our.error**2, their.error**2))
    loss = math.fsum((our.error**4 / our.dof, their.error**4 / their.dof))
    both = Precision(math.sqrt(total), total**2 / loss if loss else 1.0)
    middle = statistics.median(ours) / statistics.median(theirs)
    return _around(middle, both, alpha_per_test(1 - COVERAGE, comparisons))


def _precision(launches: Sequence[float], metric: str) -> Precision | None:
    """How exactly one session determines the logarithm of the median."""
    if len(launches) < 2 or min(launches) <= 0:
        return None
    noise = learn([launches], prior_of(metric))
    return Precision(noise.launch_sd * math.sqrt(median_variance(len(launches))), noise.launch_dof)


def _around(middle: float, precision: Precision, alpha: float) -> Interval:
    half = math.exp(min(precision.reach(alpha / 2), 700.0))  # beyond 709 exp overflows
    return Interval(middle, middle / half, middle * half)
