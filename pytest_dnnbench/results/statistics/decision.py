"""Decides whether one metric of one case has changed: regressed, improved, ok, or noisy when there
is no evidence either way.

The statistical unit is the launch. A session keeps its false-alarm rate by deciding each metric at
`alpha_per_test(rate, tests)` (false_alarms.py). Nothing here measures, reads a clock or draws a
random number.

    decide ──suspect──> the case is measured again ──> confirm      (once at most; the last word)
       └── not suspect: its status is final
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.metrics import Better
from pytest_dnnbench.results.statistics.anchor import Anchor
from pytest_dnnbench.results.statistics.design import Precision, precision
from pytest_dnnbench.results.statistics.false_alarms import SCREEN_ALPHA
from pytest_dnnbench.results.statistics.noise import (
    TIME,
    Noise,
    Prior,
    baseline_of,
    learn,
    logarithms,
    median,
)

INTERVAL = 0.95
"""The interval contains the true change with this probability."""

POWER = 0.95
"""The minimum detectable change is the smallest that is detected with this probability."""

# The reach of two launches that differ a thousandfold, at a small alpha, has no exponential.
_LARGEST_LOG = math.log(1e18)

# More launches than this are no useful answer to how many would settle a case.
_MOST_NEEDED = 100

DecisionStatus: TypeAlias = Literal["regressed", "improved", "ok", "noisy"]


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision on one metric of one case, with its figures.

    `baseline` and `now` are in the metric's unit; `change`, `interval` (95%) and `limit` are signed
    fractions of the baseline: limit -0.05 means "fails when 5% lower". Under an absolute limit
    `limit` is None, `limit_absolute` is in the metric's unit, and `baseline` is the bound itself.
    `widened`: the noise supports no limit as small as the one asked for. `confidence` is that of
    the status; for "noisy", that of a change for the worse. `minimum_detectable` is the change for
    the worse that would be detected with probability POWER, a positive fraction. `launches_needed`:
    for "noisy", the launches that would settle it if the figures stayed; None: no number would.
    `suspect`: the metric may have become worse: measure again before it fails.
    """

    status: DecisionStatus
    baseline: float
    now: float
    change: float
    interval: tuple[float, float]
    limit: float | None
    limit_absolute: float | None
    widened: bool
    confidence: float
    minimum_detectable: float
    launches_needed: int | None
    suspect: bool


def decide(
    now: Sequence[float],
    history: Sequence[Sequence[float]],
    *,
    better: Better,
    limit: float,
    alpha: float,
    noise: Noise | None = None,
    prior: Prior = TIME,
) -> Decision:
    """Compares a session's launches with those of stored sessions, oldest first; the latest five
    sessions are the baseline.

    `limit` is the smallest interesting effect, a positive fraction; `alpha` the false-alarm rate of
    this one test. `noise`: None learns it from the history, which is right whenever the history is
    A/A. Raises DataError for values that are not finite and positive, UsageError for other
    arguments out of range.
    """
    _check(better, alpha, limit)
    if not history:
        raise UsageError("no stored session to compare with: save a baseline first")
    updated = (noise or learn(history, prior)).updated(logarithms(now))
    counts = [len(session) for session in history]

    def precision_at(launches: int) -> Precision:
        return precision(_planned(updated, launches - len(now)), launches, counts)

    return _call(now, baseline_of(history), precision_at, better, _bound(better, limit), alpha)


def confirm(
    first: Sequence[float],
    again: Sequence[float],
    history: Sequence[Sequence[float]],
    *,
    better: Better,
    limit: float,
    alpha: float,
    noise: Noise | None = None,
    prior: Prior = TIME,
) -> Decision:
    """The last word on a suspect case, from its first launches and as many fresh ones: there is no
    third look.

    Regressed only if all launches together show it at `alpha` and the fresh ones alone are past the
    limit asked for, so that the second look adds no false alarms. A difference that the fresh
    launches do not repeat is noisy.
    """
    both = decide(
        [*first, *again], history, better=better, limit=limit, alpha=alpha, noise=noise, prior=prior
    )
    return _last_word(both, is_worse(again, both.baseline, better=better, limit=limit))


def decide_bound(
    now: Sequence[float],
    *,
    better: Better,
    bound: float,
    alpha: float,
    history: Sequence[Sequence[float]] = (),
    noise: Noise | None = None,
    prior: Prior = TIME,
) -> Decision:
    """Compares a session with an absolute limit: "at least 3000 img/s" when higher is better, "at
    most" when lower is.

    Regressed when the bound is broken beyond what noise explains, ok when the whole interval keeps
    it, else noisy. The history, if there is one, serves only to estimate the noise.
    """
    _check(better, alpha, 0.0)
    logarithms([bound])
    updated = (noise or learn(history, prior)).updated(logarithms(now))

    def precision_at(launches: int) -> Precision:
        return precision(_planned(updated, launches - len(now)), launches)

    decision = _call(now, bound, precision_at, better, 0.0, alpha)
    status = "ok" if decision.status == "improved" else decision.status
    return replace(decision, status=status, limit=None, limit_absolute=bound, widened=False)


def confirm_bound(
    first: Sequence[float],
    again: Sequence[float],
    *,
    better: Better,
    bound: float,
    alpha: float,
    history: Sequence[Sequence[float]] = (),
    noise: Noise | None = None,
    prior: Prior = TIME,
) -> Decision:
    """`confirm` for an absolute limit."""
    both = decide_bound(
        [*first, *again],
        better=better,
        bound=bound,
        alpha=alpha,
        history=history,
        noise=noise,
        prior=prior,
    )
    return _last_word(both, is_worse(again, bound, better=better, limit=0.0))


def decide_anchored(
    now: Sequence[float],
    again: Sequence[float] | None,
    anchor: Anchor,
    *,
    better: Better,
    limit: float,
    alpha: float,
) -> Decision:
    """Compares a session, and the fresh launches of its second look if there are any, with the
    first sessions of its history: what a decline comes to that is too slow for the latest ones to
    show (anchor.py). More launches make it no surer. The other arguments and the errors are those
    of `decide`."""
    _check(better, alpha, limit)
    launches = [*now, *(again or ())]
    logarithms(launches)
    exactness, bound = anchor.precision, _bound(better, limit)
    both = _call(launches, anchor.figure, lambda _: exactness, better, bound, alpha)
    if again is None:
        return both
    return _last_word(both, is_worse(again, anchor.figure, better=better, limit=limit))


def is_worse(now: Sequence[float], figure: float, *, better: Better, limit: float) -> bool:
    """Whether launches are worse than a figure by more than the limit, a positive fraction below 1,
    be it by chance or not."""
    return _worse(median(now), figure, better) > _bound(better, limit)


def _fraction(log: float) -> float:
    """The fraction that a logarithm of a quotient stands for; 1e18 for all beyond."""
    return math.expm1(min(log, _LARGEST_LOG))


def _last_word(both: Decision, repeated: bool) -> Decision:
    status = "noisy" if both.status == "regressed" and not repeated else both.status
    return replace(both, status=status, suspect=False)


def _call(
    now: Sequence[float],
    baseline: float,
    precision_at: Callable[[int], Precision],
    better: Better,
    bound: float,
    alpha: float,
) -> Decision:
    """`bound` is the limit asked for and `precision_at` the precision with a number of launches,
    both of logarithms."""
    figure = median(now)
    worse = _worse(figure, baseline, better)
    precision_now = precision_at(len(now))
    reach = max(bound, precision_now.reach(alpha))
    half = precision_now.reach((1 - INTERVAL) / 2)
    status, difference = _status(worse, reach, half, bound)
    sign = _sign(better)
    ends = sorted((sign * (worse - half), sign * (worse + half)))
    return Decision(
        status=status,
        baseline=baseline,
        now=figure,
        change=figure / baseline - 1,
        interval=(_fraction(ends[0]), _fraction(ends[1])),
        limit=_fraction(sign * reach),
        limit_absolute=None,
        widened=reach > bound,
        confidence=precision_now.below(difference),
        minimum_detectable=abs(_fraction(sign * (reach + precision_now.reach(1 - POWER)))),
        launches_needed=_launches_needed(worse, bound, alpha, len(now), precision_at)
        if status == "noisy"
        else None,
        suspect=worse > bound and worse > precision_now.reach(max(alpha, SCREEN_ALPHA)),
    )


def _status(worse: float, reach: float, half: float, bound: float) -> tuple[DecisionStatus, float]:
    """The status, and the difference that chance alone must stay below for it to be right. `half`
    is half the width of the interval."""
    if worse > reach:
        return "regressed", worse
    if -worse > reach:
        return "improved", -worse
    if worse + half <= bound:
        return "ok", bound - worse
    return "noisy", worse


def _launches_needed(
    worse: float,
    bound: float,
    alpha: float,
    launches: int,
    precision_at: Callable[[int], Precision],
) -> int | None:
    """The fewest launches with which this difference, if it stayed, would be decided."""

    def settled(count: int) -> bool:
        precision_then = precision_at(count)
        if worse > bound:
            return worse > precision_then.reach(alpha)
        return worse + precision_then.reach((1 - INTERVAL) / 2) <= bound

    counts = range(launches + 1, _MOST_NEEDED + 1)
    place = bisect_left(counts, True, key=settled)
    return counts[place] if place < len(counts) else None


def _planned(noise: Noise, more: int) -> Noise:
    """The noise as it would be estimated with `more` launches like those measured."""
    return replace(noise, launch_dof=noise.launch_dof + more) if more else noise


def _worse(figure: float, baseline: float, better: Better) -> float:
    """The difference of logarithms, positive for a change for the worse."""
    return _sign(better) * math.log(figure / baseline)


def _sign(better: Better) -> int:
    return 1 if better == "lower" else -1


def _bound(better: Better, limit: float) -> float:
    """The limit as a difference of logarithms."""
    return math.log1p(limit) if better == "lower" else -math.log1p(-limit)


def _check(better: Better, alpha: float, limit: float) -> None:
    if better not in ("higher", "lower"):
        raise UsageError(f"better is {better!r}: write 'higher' or 'lower'")
    if not 0 < alpha < 0.5:
        raise UsageError(f"the false-alarm rate is {alpha!r}: it must lie between 0 and 0.5")
    if not 0 <= limit < 1:
        raise UsageError(f"the limit {limit!r} is not a fraction from 0 up to 1: 5% is 0.05")
