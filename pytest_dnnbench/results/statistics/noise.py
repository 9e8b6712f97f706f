"""How much a case's figures vary when nothing has changed: between launches of one session, and
between sessions.

All of it is on the logarithm of a figure, so that a standard deviation is relative: 0.01 is 1%. A
figure of a session is the median of its launches; a baseline is the median of its latest sessions.
`docs/statistics.md` gives the formulas, their sources and how well they do.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from pytest_dnnbench.errors import DataError
from pytest_dnnbench.metrics import YARDSTICK, metric_row

WINDOW = 5
"""A baseline is the median of this many latest sessions: enough to average, few enough to follow a
machine that drifts."""

MEMORY = 20
"""Noise is learnt from this many latest sessions: more of them add little, and the machine was
another one then."""

# Variance of the median of n independent normal values, in units of their variance.
_MEDIAN_OF_FEW = (1.0, 0.5, 0.44867, 0.29825, 0.28683, 0.21478)

# When a session's launches differ by more than was learnt, the past counts no more than this.
_PAST_DOF = 4.0

Ratios: TypeAlias = tuple[tuple[float, float], ...]
"""What a case's sessions may differ by, in units of what its launches differ by, each with its
chance; the chances add up to 1."""

# Chances below this are left out: no test is made at as low a rate.
_LEAST_CHANCE = 1e-9

# With one stored session nothing is known of how much sessions differ. A tenth for 4 keeps suites
# of 36 cases, of which three have sessions that differ by three times what launches do, at 1% of
# false alarms (docs/statistics.md). The rest, a third of it for each further doubling, lets the
# sessions of a case say in the course of time that they differ by more, up to a million times: an
# allocator's launches do not differ at all.
_TAIL = 0.0003
ASSUMED: Ratios = (
    *((ratio, chance * (1 - _TAIL)) for ratio, chance in (
        (0.0, 0.3), (0.5, 0.225), (1.0, 0.225), (2.0, 0.15), (4.0, 0.1)
    )),
    *((2.0 ** (3 + doubling), _TAIL * 2 / 3 ** (1 + doubling)) for doubling in range(17)),
    (2.0**20, _TAIL / 3**17),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Prior:
    """What is assumed about a case's noise before it is measured.

    `launch_sd` is relative and worth `launch_dof` observations. `ratios`: the standard deviation
    between sessions / that between launches.
    """

    launch_sd: float
    launch_dof: float
    ratios: Ratios = ASSUMED


# Centre and breadth of 130 training and inference benchmarks on an A100 (pytorch/benchmark, range
# over 15 rounds: median 1.8%, 90th percentile 7.3%): so broad that it counts as one degree of
# freedom.
TIME = Prior(launch_sd=0.0052, launch_dof=1.0)

# Memory of an allocator: the same program allocates the same bytes. With one degree of freedom, one
# launch against another would not show 1% more: Cauchy's tails are that long.
EXACT = Prior(launch_sd=1e-6, launch_dof=2.0)

# The yardstick asks whether the machine has changed. To think so by mistake costs nothing but
# doubt, so less is assumed between sessions than where a case would fail.
MACHINE = Prior(
    launch_sd=0.0052,
    launch_dof=1.0,
    ratios=((0.0, 0.3), (0.5, 0.3), (1.0, 0.3), (2.0, 0.1)),
)


def prior_of(metric: str) -> Prior:
    """What to assume about a metric's noise before anything of it was measured."""
    if metric == YARDSTICK:
        return MACHINE
    return EXACT if metric_row(metric).exact else TIME


@dataclass(frozen=True, slots=True)
class Noise:
    """The noise of one metric of one case.

    `launch_sd` is relative; `launch_dof` says how well it is known, in degrees of freedom. `ratios`
    says how much sessions differ beyond the noise of their launches: their standard deviation /
    that of launches, and the chance of each value. `source` is "prior" when no data entered the
    estimate, else "learnt". `sessions` and `launches` count what it was learnt from.
    """

    launch_sd: float
    launch_dof: float
    ratios: Ratios
    source: str = "prior"
    sessions: int = 0
    launches: int = 0

    @property
    def session_sd(self) -> float:
        """How much sessions differ beyond the noise of their launches: the root of the mean
        variance."""
        return self.launch_sd * math.sqrt(
            math.fsum(chance * ratio * ratio for ratio, chance in self.ratios)
        )

    def updated(self, logs: Sequence[float]) -> "Noise":
        """The noise updated with one more session, whose level is unknown. A session noisier than
        the history raises the estimate quickly."""
        squares, dof = squares_of(logs)
        if not dof:
            return self
        past = self.launch_sd**2
        recent_dof = min(self.launch_dof, _PAST_DOF)
        long = (self.launch_dof * past + squares) / (self.launch_dof + dof)
        recent = (recent_dof * past + squares) / (recent_dof + dof)
        return replace(
            self,
            launch_sd=math.sqrt(max(long, recent)),
            launch_dof=self.launch_dof + dof,
            source="learnt",
        )


def learn(sessions: Sequence[Sequence[float]], prior: Prior = TIME) -> Noise:
    """Estimates the noise of one metric of one case from the per-launch values of its sessions,
    oldest first; the latest MEMORY of them count.

    The sessions are A/A: nothing was changed between them on purpose. The estimate from few
    sessions is drawn towards the prior. How much sessions differ is learnt from the errors with
    which the earlier sessions predict each one, so that the noise of a drifting machine includes
    its drift: each ratio of the prior becomes as much likelier as it explains these errors better
    (Bayes). Raises DataError for a value that has no logarithm.
    """
    spread = spread_of(sessions[-MEMORY:])
    launch_dof = prior.launch_dof + spread.dof
    launch_variance = (prior.launch_dof * prior.launch_sd**2 + spread.squares) / launch_dof
    ratios = [ratio for ratio, _ in prior.ratios]
    likely = likelihoods(spread.errors, spread.shares, launch_variance, launch_dof, ratios)
    return Noise(
        launch_sd=math.sqrt(launch_variance),
        launch_dof=launch_dof,
        ratios=_weighed(prior.ratios, likely),
        source="learnt" if spread.dof or spread.errors else "prior",
        sessions=len(spread.counts),
        launches=sum(spread.counts),
    )


@dataclass(frozen=True, slots=True)
class Spread:
    """How one metric of one case has varied.

    `counts`: the launches of each session. `squares` is the sum of squares of the logarithms around
    the mean of their session, with `dof` degrees of freedom. `errors`: for each session but the
    first the distance of its mean from the median of those before, of logarithms, as if it were one
    session's own deviation; `shares`: the share of the launches' variance in the square of each.
    """

    counts: list[int]
    squares: float
    dof: int
    errors: list[float]
    shares: list[float]


def spread_of(sessions: Sequence[Sequence[float]]) -> Spread:
    """How the per-launch values of a case's sessions, oldest first, have varied. Raises DataError
    for a value that has no logarithm, or a session without any."""
    squares, dof, means = 0.0, 0, []
    for session in sessions:
        logs = logarithms(session)
        square, free = squares_of(logs)
        squares, dof = squares + square, dof + free
        means.append(sum(logs) / len(logs))
    counts = [len(session) for session in sessions]
    errors, shares = _prediction_errors(means, counts)
    return Spread(counts, squares, dof, errors, shares)


def _prediction_errors(
    means: Sequence[float], counts: Sequence[int]
) -> tuple[list[float], list[float]]:
    """`Spread.errors` and `Spread.shares`, from the mean logarithm and the launches of each
    session.

    Means, where a figure is a median: of three launches a mean keeps less of their noise, and more
    of what sessions differ by. An unusual launch does no harm here, for it widens the launches'
    variance too, of which a mean has 1/n whatever the distribution.
    """
    errors, shares = [], []
    variances = [1 / count for count in counts]
    for number in range(1, len(means)):
        first = max(0, number - WINDOW)
        spread = median_variance(number - first)
        error = means[number] - median(means[first:number])
        earlier = spread * sum(variances[first:number]) / (number - first)
        errors.append(error / math.sqrt(1 + spread))
        shares.append((variances[number] + earlier) / (1 + spread))
    return errors, shares


def likelihoods(
    errors: Sequence[float],
    shares: Sequence[float],
    launch_variance: float,
    launch_dof: float,
    ratios: Sequence[float],
) -> list[float]:
    """How well each ratio explains a case's errors of prediction (Spread), the best of them as 1.

    The errors are normal of the variance (share + ratio^2) times that of launches, which is itself
    known to `launch_dof` degrees of freedom: together they follow Student's distribution of several
    variables.
    """
    if not errors or not launch_variance:
        return [1.0] * len(ratios)
    import numpy as np

    sizes = np.array(shares) + np.square(ratios)[:, None]
    squares = (np.square(errors) / sizes).sum(axis=1) / launch_variance
    logs = -(launch_dof + len(errors)) / 2 * np.log1p(squares / launch_dof)
    logs -= np.log(sizes).sum(axis=1) / 2
    likely: list[float] = np.exp(logs - logs.max()).tolist()
    return likely


def _weighed(ratios: Ratios, likely: Sequence[float]) -> Ratios:
    """The chances after the errors were heard."""
    chances = [chance * weight for (_, chance), weight in zip(ratios, likely, strict=True)]
    total = math.fsum(chances)
    return tuple(
        (ratio, chance / total)
        for (ratio, _), chance in zip(ratios, chances, strict=True)
        if chance >= _LEAST_CHANCE * total
    )


def baseline_of(sessions: Sequence[Sequence[float]]) -> float:
    """The figure to compare with: the median of the latest sessions' medians, oldest session
    first."""
    return median([median(session) for session in sessions[-WINDOW:]])


def median(values: Sequence[float]) -> float:
    """As statistics.median, which is slow on few values; thousands of cases have few values
    each."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def median_variance(count: int) -> float:
    """Variance of the median of `count` independent normal values, in units of their variance
    (within 0.5%)."""
    if count <= len(_MEDIAN_OF_FEW):
        return _MEDIAN_OF_FEW[count - 1]
    return math.pi / 2 / (count + (0.46 if count % 2 else 1.35))


def logarithms(values: Sequence[float]) -> list[float]:
    """The logarithm of each value of one session. Raises DataError for a value that has none, or
    for no values."""
    if not values:
        raise DataError("a session without a launch cannot be compared: measure it again")
    if not (min(values) > 0 and sum(values) < math.inf):  # no NaN passes; a sum may be too large
        for number, value in enumerate(values, 1):
            if not 0 < value < math.inf:
                raise DataError(
                    f"launch {number} has the value {value!r}, which has no relative change:"
                    " values to compare must be finite and above zero; leave this metric without a"
                    " limit or measure again"
                )
    return [math.log(value) for value in values]


def squares_of(logs: Sequence[float]) -> tuple[float, int]:
    """Sum of squares around the mean, and its degrees of freedom."""
    mean = sum(logs) / len(logs)
    return sum([(value - mean) ** 2 for value in logs]), len(logs) - 1
