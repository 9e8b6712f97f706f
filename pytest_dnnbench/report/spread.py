"""Intervals over launches: of one figure, and of the ratio of two cases of one session.

The launch is the statistical unit, and the noise is that of logarithms, as for a verdict. A single
launch has no interval. What differs from session to session is not in these intervals: they say how
exactly a session measured.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_dnnbench.results.statistics.design import Precision, alpha_per_test
from pytest_dnnbench.results.statistics.noise import learn, median_variance, prior_of

# The intervals shown hold the true value with this probability.
COVERAGE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure between its bounds."""

    middle: float
    low: float
    high: float


def interval(launches: Sequence[float], metric: str) -> Interval | None:
    """Of the median over launches; None for fewer than two launches or values that have no
    logarithm."""
    known = _known(launches, metric)
    if known is None:
        return None
    return _around(statistics.median(launches), known, 1 - COVERAGE)


def ratio(
    ours: Sequence[float], theirs: Sequence[float], metric: str, *, comparisons: int = 1
) -> Interval | None:
    """Of the median of ours / the median of theirs; wider where it is one of several
    comparisons."""
    parts = _known(ours, metric), _known(theirs, metric)
    if parts[0] is None or parts[1] is None:
        return None
    # Welch and Satterthwaite: two errors that need not be alike.
    variances = [part.error**2 for part in parts if part]
    total = math.fsum(variances)
    loss = math.fsum(
        variance**2 / part.dof for variance, part in zip(variances, parts, strict=True) if part
    )
    both = Precision(math.sqrt(total), total**2 / loss if loss else 1.0)
    middle = statistics.median(ours) / statistics.median(theirs)
    return _around(middle, both, alpha_per_test(1 - COVERAGE, comparisons))


def _known(launches: Sequence[float], metric: str) -> Precision | None:
    """How exactly the logarithm of the median is known within a session."""
    if len(launches) < 2 or min(launches) <= 0:
        return None
    noise = learn([launches], prior_of(metric))
    return Precision(noise.launch_sd * math.sqrt(median_variance(len(launches))), noise.launch_dof)


def _around(middle: float, known: Precision, alpha: float) -> Interval:
    half = math.exp(min(known.reach(alpha / 2), 700.0))
    return Interval(middle, middle / half, middle * half)
