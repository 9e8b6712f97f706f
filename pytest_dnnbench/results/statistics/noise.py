"""How much a case's figures vary when nothing has changed: between launches of one session, and
between sessions.

All of it is on the logarithm of a figure, so that a standard deviation is relative: 0.01 is 1%. A
figure of a session is the median of its launches; a baseline is the median of its latest sessions.
`docs/statistics.md` gives the formulas, their sources and how well they do.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pytest_dnnbench.errors import DataError
from pytest_dnnbench.metrics import metric_row

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

# When a case's sessions differ by more than was assumed, what was assumed counts no more than this:
# other cases say little about one that is unlike them.
_ASSUMED_DOF = 3.0


@dataclass(frozen=True, slots=True)
class Prior:
    """What is assumed about a case's noise before it is measured, worth `launch_dof` and
    `session_dof` observations.

    `launch_sd` is relative. `session_ratio` is the variance between sessions / the variance between
    launches.
    """

    launch_sd: float
    launch_dof: float
    session_ratio: float
    session_dof: float


# Centre and breadth of 130 training and inference benchmarks on an A100 (pytorch/benchmark, range
# over 15 rounds: median 1.8%, 90th percentile 7.3%): so broad that it counts as one degree of
# freedom. Sessions are assumed to differ as much as launches do, until some are stored: on a shared
# machine they do.
TIME = Prior(launch_sd=0.0052, launch_dof=1.0, session_ratio=1.0, session_dof=4.0)

# Memory of an allocator: the same program allocates the same bytes.
EXACT = Prior(launch_sd=1e-6, launch_dof=1.0, session_ratio=1.0, session_dof=4.0)


def prior_of(metric: str) -> Prior:
    """What to assume about a metric's noise before anything of it was measured."""
    return EXACT if metric_row(metric).exact else TIME


@dataclass(frozen=True, slots=True)
class Noise:
    """The noise of one metric of one case.

    Standard deviations are relative; degrees of freedom say how well each is known. `session_sd` is
    how much sessions differ beyond the noise of their launches. `source` is "prior" when no data
    entered the estimate, else "learnt". `sessions` and `launches` count what it was learnt from.
    """

    launch_sd: float
    launch_dof: float
    session_sd: float
    session_dof: float
    source: str = "prior"
    sessions: int = 0
    launches: int = 0

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
    sessions is drawn towards the prior. How much sessions differ is estimated from the errors with
    which the earlier sessions predict each one, so that the noise of a drifting machine includes
    its drift. Raises DataError for a value that has no logarithm.
    """
    sessions = sessions[-MEMORY:]
    spreads = [squares_of(logarithms(session)) for session in sessions]
    own_dof = sum(dof for _, dof in spreads)
    launch_dof = prior.launch_dof + own_dof
    squares = sum(square for square, _ in spreads)
    launch_variance = (prior.launch_dof * prior.launch_sd**2 + squares) / launch_dof
    errors, shares = prediction_errors(sessions)
    share = sum(shares) / len(shares) if shares else 0.0
    own = sum(error * error for error in errors)
    assumed = (prior.session_ratio + share) * launch_variance
    total = max(
        (dof * assumed + own) / (dof + len(errors))
        for dof in (prior.session_dof, min(prior.session_dof, _ASSUMED_DOF))
    )
    return Noise(
        launch_sd=math.sqrt(launch_variance),
        launch_dof=launch_dof,
        session_sd=math.sqrt(max(total - share * launch_variance, 0.0)),
        session_dof=prior.session_dof + len(errors),
        source="learnt" if own_dof or errors else "prior",
        sessions=len(sessions),
        launches=sum(len(session) for session in sessions),
    )


def prediction_errors(sessions: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """For each session but the first: its distance from its baseline (of logarithms, as if it were
    one session's own deviation) and the share of the launches' variance in that distance."""
    middles = [median(session) for session in sessions]
    variances = [median_variance(len(session)) for session in sessions]
    errors, shares = [], []
    for number in range(1, len(sessions)):
        first = max(0, number - WINDOW)
        spread = median_variance(number - first)
        error = math.log(middles[number] / median(middles[first:number]))
        errors.append(error / math.sqrt(1 + spread))
        earlier = spread * sum(variances[first:number]) / (number - first)
        shares.append((variances[number] + earlier) / (1 + spread))
    return errors, shares


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
    for number, value in enumerate(values, 1):
        if not 0 < value < math.inf:
            raise DataError(
                f"launch {number} has the value {value!r}, which has no relative change: values to"
                " compare must be finite and above zero; leave this metric without a limit or"
                " measure again"
            )
    return [math.log(value) for value in values]


def squares_of(logs: Sequence[float]) -> tuple[float, int]:
    """Sum of squares around the mean, and its degrees of freedom."""
    mean = sum(logs) / len(logs)
    return sum([(value - mean) ** 2 for value in logs]), len(logs) - 1
