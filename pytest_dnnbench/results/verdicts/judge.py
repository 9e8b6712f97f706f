"""The verdict on one case: each limited metric is decided on its own, and the case is as its worst
metric.

Pure: from launches, a baseline and limits to the verdict in the record.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import msgspec

from pytest_dnnbench.counted import counted
from pytest_dnnbench.metrics import METRICS
from pytest_dnnbench.results.baselines.case_baseline import ComparedWith, Incomparable
from pytest_dnnbench.results.baselines.limits import Layers, Limit, limit_in_force
from pytest_dnnbench.results.records.launches import Launches
from pytest_dnnbench.results.records.schema import LimitEntry, MetricEntry
from pytest_dnnbench.results.records.verdict import MetricVerdict, Status, Verdict
from pytest_dnnbench.results.statistics.anchor import SHARE, Anchor, rate_of_latest
from pytest_dnnbench.results.statistics.decision import (
    Decision,
    confirm,
    confirm_bound,
    decide,
    decide_anchored,
    decide_bound,
    is_worse,
)
from pytest_dnnbench.results.statistics.noise import baseline_of
from pytest_dnnbench.results.verdicts.machine_speed import (
    MachineSpeed,
    machine_change,
    machine_drift,
)

CaseLaunches = Mapping[str, Launches]
"""The launches of each metric of one case."""

# A case has the first of these that one of its metrics has.
_WORST_FIRST: tuple[Status, ...] = ("regressed", "noisy", "improved", "ok", "no-baseline")
_CHANGED = ("regressed", "improved")

_LARGEST_EFFECT = 0.99
"""Of figures below a granularity: a change must be below 1 to be a limit."""

PLAUSIBLE = 2.0
"""An improvement by more than this factor gets a warning: a case that computes less than it did, or
zeros, or whose clock is wrong, looks like that too."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict of a first look, and the metrics for which the case should be measured again
    before it fails."""

    verdict: Verdict
    suspects: tuple[str, ...]


def limits_of(metrics: Iterable[str], baseline: ComparedWith, layers: Layers) -> dict[str, Limit]:
    """The limit of each of these metrics that has one. `layers` are the user's; the baseline's
    limits come after them."""
    resolved = {metric: limit_in_force(metric, (*layers, baseline.limits)) for metric in metrics}
    return {metric: limit for metric, limit in resolved.items() if limit is not None}


def unmeasured(metrics: Iterable[str], layers: Layers) -> list[str]:
    """Metrics that the user limits and this case does not have."""
    limited = {name for layer in layers for name, limit in layer.items() if not limit.off}
    return sorted(limited - set(metrics))


def judge(
    measured: CaseLaunches, baseline: ComparedWith, limits: Mapping[str, Limit], alpha: float
) -> Judged:
    """The first look at a case.

    `measured` has the launches of this session: of every metric in `limits`, and the machine's
    yardstick, limited or not, if it may explain a change. `alpha` is the false-alarm rate of one
    test, which is one metric of one case.

    Disturbed launches are left out where enough others remain. Otherwise, or if a change in machine
    speed explains the difference, the difference is not trusted: the case may be measured again,
    but the metric is at worst "noisy".
    """
    decided = _decide_each(measured, {}, baseline, limits, alpha)
    suspects = tuple(metric for metric, each in decided.items() if each.suspect)
    return Judged(_verdict(decided, measured, baseline, limits), suspects)


def judge_again(
    measured: CaseLaunches,
    fresh: CaseLaunches,
    baseline: ComparedWith,
    limits: Mapping[str, Limit],
    alpha: float,
) -> Verdict:
    """The last word on a case: as `judge`, with the fresh launches of its confirmation. A metric
    without fresh launches is decided by the first ones alone."""
    decided = _decide_each(measured, fresh, baseline, limits, alpha)
    return _verdict(decided, measured, baseline, limits)


@dataclass(frozen=True, slots=True)
class _Looks:
    """The launches of one metric: those of the first look, and those of the second, if there was
    one."""

    first: Launches
    fresh: Launches | None

    @property
    def all(self) -> Launches:
        return self.first.followed_by(self.fresh) if self.fresh else self.first

    @property
    def enough(self) -> bool:
        """Whether enough launches are undisturbed to trust a difference: of all, and of the fresh
        ones by themselves."""
        return self.all.enough and (self.fresh is None or self.fresh.enough)

    @property
    def values(self) -> tuple[Sequence[float], Sequence[float] | None]:
        """The values to decide by, of each look. Those of both looks count together."""
        if self.fresh is None:
            return self.first.trusted, None
        if self.enough:
            return self.first.undisturbed, self.fresh.undisturbed
        return self.first.values, self.fresh.values


@dataclass(frozen=True, slots=True)
class _Decided:
    verdict: MetricVerdict
    suspect: bool


def _decide_each(
    measured: CaseLaunches,
    fresh: CaseLaunches,
    baseline: ComparedWith,
    limits: Mapping[str, Limit],
    alpha: float,
) -> dict[str, _Decided]:
    """The decision on each limited metric that can be decided."""

    # A decision of its own, which only a changed metric needs, and then all of them the same one.
    @cache
    def machine() -> MachineSpeed | None:
        return machine_change(measured, fresh, baseline)

    decided = {}
    for metric, limit in limits.items():
        looks = _Looks(measured[metric], fresh.get(metric))
        decisions = _decisions(metric, looks, baseline, limit, alpha)
        if decisions:
            decided[metric] = _decided(metric, looks, decisions, machine)
        if metric not in decided or decided[metric].verdict.status != "regressed":
            declined = _declined(metric, measured, fresh, baseline, limit, SHARE * alpha)
            decided |= {metric: declined} if declined else {}
    return decided


def _decisions(
    metric: str, looks: _Looks, baseline: ComparedWith, limit: Limit, alpha: float
) -> list[tuple[Decision, str]]:
    """One decision for each kind of limit that can be decided, with the source of the limit."""
    first, again = looks.values
    if not all(value > 0 for value in (*first, *(again or ()))):
        return []  # no logarithm
    history = baseline.sessions_of(metric)
    about: dict[str, Any] = {
        "better": METRICS[metric].better,
        "alpha": rate_of_latest(alpha),
        "noise": baseline.noise_of(metric),
        "prior": baseline.prior_of(metric),
    }
    decisions = []
    if limit.relative is not None and history:
        size = _smallest_effect(metric, limit.relative, baseline_of(history))
        decision = (
            decide(first, history, limit=size, **about)
            if again is None
            else confirm(first, again, history, limit=size, **about)
        )
        widened = decision.widened or size > abs(limit.relative)
        decisions.append((replace(decision, widened=widened), limit.relative_source))
    if limit.absolute is not None:
        bound = limit.absolute
        decision = (
            decide_bound(first, bound=bound, history=history, **about)
            if again is None
            else confirm_bound(first, again, bound=bound, history=history, **about)
        )
        decisions.append((decision, limit.absolute_source))
    return decisions


def _smallest_effect(metric: str, limit: float, figure: float) -> float:
    """A relative limit as a positive fraction below 1 of a baseline's figure, and never less than
    the metric's granularity."""
    # Larger by what is assumed of its noise: a difference of exactly one granule is within it.
    granule = METRICS[metric].granularity / figure * (1 + 1e-4)
    return max(abs(limit), min(granule, _LARGEST_EFFECT))


def _declined(
    metric: str,
    measured: CaseLaunches,
    fresh: CaseLaunches,
    baseline: ComparedWith,
    limit: Limit,
    alpha: float,
) -> _Decided | None:
    """The look at the anchor, the user's or the first sessions of a history that has enough, where
    the metric is worse than there; None also where the machine has become as much slower."""
    looks, anchor = _Looks(measured[metric], fresh.get(metric)), baseline.anchor_of(metric)
    first, again = looks.values
    positive = all(value > 0 for value in (*first, *(again or ())))
    if anchor is None or limit.relative is None or not looks.enough or not positive:
        return None
    size = _smallest_effect(metric, limit.relative, anchor.figure)
    better = METRICS[metric].better
    if not is_worse([*first, *(again or ())], anchor.figure, better=better, limit=size):
        return None  # as nearly always, and then the noise need not be learnt
    decision = decide_anchored(first, again, anchor, better=better, limit=size, alpha=alpha)
    if decision.status != "regressed":
        return None
    drift = machine_drift(measured, fresh, baseline)
    if drift and drift.explains(metric, decision):
        return None
    verdict = _metric_verdict(metric, looks, decision, limit.relative_source, drift)
    return _Decided(msgspec.structs.replace(verdict, since=_since(anchor)), suspect=True)


def _since(anchor: Anchor) -> str:
    """What a declined metric was compared with."""
    if anchor.named:
        sessions = counted(len(anchor.first), "session")
        return f"compared with the anchor {anchor.named} ({sessions}), not with the latest ones"
    return (
        f"a slow decline: compared with the first {len(anchor.first)} of the last"
        f" {anchor.distance + len(anchor.first) // 2} sessions, for the latest ones declined too"
    )


def _decided(
    metric: str,
    looks: _Looks,
    decisions: list[tuple[Decision, str]],
    machine: Callable[[], MachineSpeed | None],
) -> _Decided:
    """The worst of a metric's decisions, after those that cannot be trusted have become noisy."""
    suspect = any(decision.suspect or decision.status == "regressed" for decision, _ in decisions)
    changed = any(decision.status in _CHANGED for decision, _ in decisions)
    speed = machine() if changed else None
    trusted = [
        (
            decision
            if looks.enough and not (speed and speed.explains(metric, decision))
            else _doubted(decision),
            source,
        )
        for decision, source in decisions
    ]
    decision, source = min(trusted, key=lambda pair: _WORST_FIRST.index(pair[0].status))
    return _Decided(_metric_verdict(metric, looks, decision, source, speed), suspect)


def _metric_verdict(
    metric: str, looks: _Looks, decision: Decision, source: str, speed: MachineSpeed | None
) -> MetricVerdict:
    launches = looks.all
    return MetricVerdict(
        status=decision.status,
        baseline=decision.baseline,
        now=decision.now,
        change=decision.change,
        interval=decision.interval,
        limit=decision.limit,
        limit_absolute=decision.limit_absolute,
        widened=decision.widened,
        source=source,
        confidence=decision.confidence,
        minimum_detectable=decision.minimum_detectable,
        launches_needed=decision.launches_needed,
        machine=speed.entry(metric, decision) if speed else None,
        disturbance=launches.disturbance,
        left_out=launches.left_out if looks.enough else 0,
        warning=_warning(metric, decision),
    )


def _warning(metric: str, decision: Decision) -> str | None:
    """Why an improvement is hard to believe; None for a plausible one."""
    ratio = decision.now / decision.baseline
    factor = ratio if METRICS[metric].better == "higher" else 1 / ratio
    if decision.status != "improved" or factor <= PLAUSIBLE:
        return None
    return (
        f"{factor:,.3g} times better than the baseline is more than {PLAUSIBLE:g} times: check that"
        " the case still computes the same (loss, outputs, steps) before you believe it"
    )


def _doubted(decision: Decision) -> Decision:
    """A decision on a difference that is not trusted. More launches of the same kind would settle
    nothing."""
    status = "noisy" if decision.status in _CHANGED else decision.status
    return replace(decision, status=status, launches_needed=None)


def _verdict(
    decided: Mapping[str, _Decided],
    measured: CaseLaunches,
    baseline: ComparedWith,
    limits: Mapping[str, Limit],
) -> Verdict:
    metrics = {metric: each.verdict for metric, each in decided.items()}
    statuses = {verdict.status for verdict in metrics.values()}
    worst: Status = next((status for status in _WORST_FIRST if status in statuses), "no-baseline")
    unjudged = {
        metric: reason
        for metric, limit in limits.items()
        if (reason := _unjudged(metric, limit, measured[metric], baseline))
    }
    return Verdict(
        status=baseline.status("partial" if worst == "ok" and unjudged else worst),
        against=baseline.against,
        reason=baseline.reason,
        metrics=metrics,
        unjudged=unjudged,
        differs=(
            [each.fact for each in baseline.differences]
            if isinstance(baseline, Incomparable)
            else []
        ),
    )


def _unjudged(metric: str, limit: Limit, launches: Launches, baseline: ComparedWith) -> str | None:
    """Why a limit of a metric was not judged; None where it was, and where there is no baseline,
    which the status of the case says."""
    if any(value <= 0 for value in launches.values):
        return "a launch has a value of zero or less, which has no relative change"
    if limit.relative is None or not baseline.metrics or baseline.sessions_of(metric):
        return None
    if metric in baseline.disturbed:
        return "every stored launch was disturbed"
    if metric in baseline.metrics:
        return "stored launches have values of zero or less, which have no relative change"
    return "the baseline does not have it"


def thresholds(
    metrics: Mapping[str, MetricEntry], limits: Mapping[str, Limit]
) -> dict[str, LimitEntry]:
    """The limits that this run sets for later ones, for its record."""
    return {
        metric: LimitEntry(
            limit=limit.absolute
            if limit.relative is None
            else metrics[metric].value * (1 + limit.relative),
            relative=limit.relative,
            absolute=limit.absolute,
            source=limit.relative_source or limit.absolute_source,
        )
        for metric, limit in limits.items()
    }
