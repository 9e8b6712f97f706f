"""Calls a difference: regressed, improved, ok, or noisy when there is no evidence either way.

The statistical unit is the launch; one metric of one case at a time. A session's false-alarm rate
is kept by calling with `alpha_per_test(rate, tests)` of `design.py`. Nothing here measures, reads a
clock or draws a random number.

    decide ──suspect──> base measures again ──> confirm      (at most once; `confirm` is the last word)
       └── not suspect: its status stands
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.results.statistics.design import SCREEN_ALPHA, Precision, precision
from pytest_dnnbench.results.statistics.noise import (
    TIME,
    Noise,
    Prior,
    baseline_of,
    learn,
    logarithms,
    median,
)

# The interval shown holds the true change with this probability.
INTERVAL = 0.95
# More launches than this are no answer to how many would settle a case.
_MOST_NEEDED = 100
# The smallest change that is called with this probability is the minimum detectable one.
POWER = 0.95


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about one metric of one case, and by how much it was.

    `baseline` and `now` are in the metric's unit; `change`, `interval` (95%) and `limit` are signed
    fractions of the baseline: limit -0.05 means "fails when 5% lower". Under an absolute limit
    `limit` is None, `limit_absolute` is in the metric's unit, and `baseline` is the bound itself.
    `widened`: the noise supports no limit as small as the one asked for. `confidence`: how sure the
    status is; for "noisy", how sure a change for the worse is. `minimum_detectable`: the change for
    the worse that would be called with 95% probability, a positive fraction. `launches_needed`: for
    "noisy", the launches that would settle it if the figures stayed; None: no number would.
    `suspect`: may have got worse: measure again before it fails.
    """

    status: str
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
    better: str,
    limit: float,
    alpha: float,
    noise: Noise | None = None,
    prior: Prior = TIME,
) -> Decision:
    """Compares a session's launches with those of stored sessions, oldest first (the latest five
    are the baseline).

    `better` is "higher" or "lower"; `limit` the smallest interesting effect, a positive fraction;
    `alpha` the false-alarm rate of this one test. `noise`: None learns it from the history, as one
    wants whenever the history is A/A. Raises DataError for values that are not finite and positive,
    UsageError for other arguments out of range.
    """
    _check(better, alpha, limit)
    if not history:
        raise UsageError("no stored session to compare with: save a baseline first")
    believed = (noise or learn(history, prior)).seen(logarithms(now))
    counts = [len(session) for session in history]

    def exactness(launches: int) -> Precision:
        return precision(_planned(believed, launches - len(now)), launches, counts)

    return _call(now, baseline_of(history), exactness, better, _bound(better, limit), alpha)


def confirm(
    first: Sequence[float],
    again: Sequence[float],
    history: Sequence[Sequence[float]],
    *,
    better: str,
    limit: float,
    alpha: float,
    noise: Noise | None = None,
    prior: Prior = TIME,
) -> Decision:
    """The last word on a suspect case, from its first launches and as many fresh ones: no third
    look.

    Regressed only if all launches together say so at `alpha` and the fresh ones alone are past the
    limit asked for; so the two looks cost no false alarms. A difference that the fresh launches do
    not repeat is noisy.
    """
    both = decide(
        [*first, *again], history, better=better, limit=limit, alpha=alpha, noise=noise, prior=prior
    )
    repeated = _worse(median(again), both.baseline, better) > _bound(better, limit)
    return _last_word(both, repeated)


def decide_bound(
    now: Sequence[float],
    *,
    better: str,
    bound: float,
    alpha: float,
    history: Sequence[Sequence[float]] = (),
    noise: Noise | None = None,
    prior: Prior = TIME,
) -> Decision:
    """Compares a session with an absolute limit: "at least 3000 img/s" when higher is better, "at
    most" when lower is.

    Regressed when the bound is broken beyond what noise explains, ok when the whole interval keeps
    it, else noisy. The history, if any, only tells the noise.
    """
    _check(better, alpha, 0.0)
    logarithms([bound])
    believed = (noise or learn(history, prior)).seen(logarithms(now))

    def exactness(launches: int) -> Precision:
        return precision(_planned(believed, launches - len(now)), launches)

    decision = _call(now, bound, exactness, better, 0.0, alpha)
    status = "ok" if decision.status == "improved" else decision.status
    return replace(decision, status=status, limit=None, limit_absolute=bound, widened=False)


def confirm_bound(
    first: Sequence[float],
    again: Sequence[float],
    *,
    better: str,
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
    return _last_word(both, _worse(median(again), bound, better) > 0)


def _last_word(both: Decision, repeated: bool) -> Decision:
    status = "noisy" if both.status == "regressed" and not repeated else both.status
    return replace(both, status=status, suspect=False)


def _call(
    now: Sequence[float],
    baseline: float,
    exactness: Callable[[int], Precision],
    better: str,
    bound: float,
    alpha: float,
) -> Decision:
    """`bound` is the limit asked for and `exactness` the precision at so many launches, both of
    logarithms."""
    figure = median(now)
    worse = _worse(figure, baseline, better)
    known = exactness(len(now))
    reach = max(bound, known.reach(alpha))
    half = known.reach((1 - INTERVAL) / 2)
    needed = None
    if worse > reach:
        status, confidence = "regressed", known.below(worse)
    elif -worse > reach:
        status, confidence = "improved", known.below(-worse)
    elif worse + half <= bound:
        status, confidence = "ok", known.below(bound - worse)
    else:
        status, confidence = "noisy", known.below(worse)
        needed = _launches_needed(worse, bound, alpha, len(now), exactness)
    sign = _sign(better)
    ends = sorted((sign * (worse - half), sign * (worse + half)))
    return Decision(
        status=status,
        baseline=baseline,
        now=figure,
        change=figure / baseline - 1,
        interval=(math.expm1(ends[0]), math.expm1(ends[1])),
        limit=math.expm1(sign * reach),
        limit_absolute=None,
        widened=reach > bound,
        confidence=confidence,
        minimum_detectable=abs(math.expm1(sign * (reach + known.reach(1 - POWER)))),
        launches_needed=needed,
        suspect=worse > max(bound, known.reach(max(alpha, SCREEN_ALPHA))),
    )


def _launches_needed(
    worse: float, bound: float, alpha: float, launches: int, exactness: Callable[[int], Precision]
) -> int | None:
    """The fewest launches at which this difference, if it stayed, would be called."""

    def settled(count: int) -> bool:
        known = exactness(count)
        if worse > bound:
            return worse > known.reach(alpha)
        return worse + known.reach((1 - INTERVAL) / 2) <= bound

    counts = range(launches + 1, _MOST_NEEDED + 1)
    place = bisect_left(counts, True, key=settled)
    return counts[place] if place < len(counts) else None


def _planned(noise: Noise, more: int) -> Noise:
    """The noise as it would be known after so many more launches like those seen."""
    return replace(noise, launch_dof=noise.launch_dof + more) if more else noise


def _worse(figure: float, baseline: float, better: str) -> float:
    """The difference of logarithms, up for a change for the worse."""
    return _sign(better) * math.log(figure / baseline)


def _sign(better: str) -> int:
    return 1 if better == "lower" else -1


def _bound(better: str, limit: float) -> float:
    """The limit as a difference of logarithms."""
    return math.log1p(limit) if better == "lower" else -math.log1p(-limit)


def _check(better: str, alpha: float, limit: float) -> None:
    if better not in ("higher", "lower"):
        raise UsageError(f"better is {better!r}: write 'higher' or 'lower'")
    if not 0 < alpha < 0.5:
        raise UsageError(
            f"a false-alarm rate of {alpha!r} cannot be kept: it must lie between 0 and 0.5"
        )
    if not 0 <= limit < 1:
        raise UsageError(f"a limit of {limit!r} is not a fraction from 0 up to 1: 5% is 0.05")
