"""The verdict on one case: each gated metric decided on its own, the worst of them for the case.

Pure: from a record, its baseline and its limits to plain data for the record (docs/baselines.md
gives its form).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from pytest_dnnbench.results.baselines.baseline import CaseBaseline, Incomparable
from pytest_dnnbench.results.baselines.limits import Limit, resolve
from pytest_dnnbench.results.records.launches import Launches
from pytest_dnnbench.results.statistics.decision import (
    Decision,
    confirm,
    confirm_bound,
    decide,
    decide_bound,
)
from pytest_dnnbench.results.statistics.noise import prior_of
from pytest_dnnbench.results.verdicts.machine_speed import MachineChange, machine_change

VerdictData = dict[str, Any]
Found = CaseBaseline | Incomparable | None
Measured = Mapping[str, Launches]

# A case is the first of these that one of its metrics is.
_WORST_FIRST = ("regressed", "noisy", "improved", "ok", "no-baseline")
_CHANGED = ("regressed", "improved")


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict, and the metrics for which the case should be measured again before it is
    believed."""

    verdict: VerdictData
    suspects: tuple[str, ...]


def limits_of(
    metrics: Mapping[str, Any], found: Found, layers: Sequence[Mapping[str, Limit]]
) -> dict[str, Limit]:
    """The limit of each measured metric that has one. `layers`: what the user said, nearest
    first."""
    stored = found.limits if isinstance(found, CaseBaseline) else {}
    resolved = {metric: resolve(metric, (*layers, stored)) for metric in metrics}
    return {metric: limit for metric, limit in resolved.items() if limit is not None}


def unmeasured(metrics: Mapping[str, Any], layers: Sequence[Mapping[str, Limit]]) -> list[str]:
    """Metrics that the user limits and this case does not have."""
    return sorted(
        {name for layer in layers for name, limit in layer.items() if not limit.off} - set(metrics)
    )


def uncompared(limits: Mapping[str, Limit], found: Found) -> list[str]:
    """Limited metrics of which every launch of every stored session was disturbed."""
    return sorted(set(found.disturbed) & set(limits)) if isinstance(found, CaseBaseline) else []


def judge(
    measured: Measured,
    better: Mapping[str, str],
    found: Found,
    limits: Mapping[str, Limit],
    alpha: float,
    again: Measured | None = None,
) -> Judged:
    """`measured` are the launches of this session per metric; `again` the fresh ones of a
    confirmation, after which nothing is suspect any more. `alpha` is the false-alarm rate of one
    test.

    Disturbed launches are left out where enough others are there. Where not, or where the machine
    itself has changed by enough to explain it, no difference is believed: it may be measured again,
    but the metric is noisy at worst.
    """

    @cache
    def machine() -> MachineChange | None:
        return machine_change(measured, again, found)

    metrics: dict[str, VerdictData] = {}
    suspects = []
    for metric, limit in limits.items():
        fresh = (again or {}).get(metric)
        decisions = _decisions(metric, measured[metric], better[metric], found, limit, alpha, fresh)
        if decisions:
            if any(decision.suspect or decision.status == "regressed" for decision, _ in decisions):
                suspects.append(metric)
            everything = measured[metric].followed_by(fresh) if fresh else measured[metric]
            believed = _believed(measured[metric], fresh)
            changed = machine() if any(one.status in _CHANGED for one, _ in decisions) else None
            decisions = [
                (
                    one
                    if believed and not (changed and changed.explains(metric, one))
                    else _doubted(one),
                    source,
                )
                for one, source in decisions
            ]
            decision, source = min(decisions, key=lambda one: _WORST_FIRST.index(one[0].status))
            metrics[metric] = _entry(decision, source) | {
                "machine": changed.entry(metric, decision) if changed else None,
                "disturbance": everything.disturbance,
                "left_out": len(everything.values) - len(everything.undisturbed) if believed else 0,
            }
    return Judged(_verdict(metrics, found), tuple(suspects) if again is None else ())


def _believed(first: Launches, fresh: Launches | None) -> bool:
    """Whether enough launches are undisturbed to believe a difference: of all, and of the fresh
    ones by themselves."""
    return first.enough if fresh is None else fresh.enough and first.followed_by(fresh).enough


def _doubted(decision: Decision) -> Decision:
    """Of a difference that is not believed: more launches of the same kind would settle nothing."""
    status = "noisy" if decision.status in _CHANGED else decision.status
    return replace(decision, status=status, launches_needed=None)


def _rested_on(
    first: Launches, fresh: Launches | None
) -> tuple[Sequence[float], Sequence[float] | None]:
    """The values to decide by. With fresh launches, those of both looks count together."""
    if fresh is None:
        return first.believed, None
    if _believed(first, fresh):
        return first.undisturbed, fresh.undisturbed
    return first.values, fresh.values


def _decisions(
    metric: str,
    measured: Launches,
    better: str,
    found: Found,
    limit: Limit,
    alpha: float,
    fresh: Launches | None,
) -> list[tuple[Decision, str]]:
    """One decision for each kind of limit that can be decided, with the source of the limit."""
    first, again = _rested_on(measured, fresh)
    history: list[list[float]] = []
    noise, prior = None, prior_of(metric)
    if isinstance(found, CaseBaseline):
        prior = found.priors.get(metric, prior)
        history = [
            session
            for session in found.history.get(metric, [])
            if all(value > 0 for value in session)
        ]
        noise = found.noise.get(metric)
    if not all(value > 0 for value in (*first, *(again or ()))):
        return []
    about: dict[str, Any] = {"better": better, "alpha": alpha, "noise": noise, "prior": prior}
    decisions = []
    if limit.relative is not None and history:
        size = abs(limit.relative)
        decision = (
            decide(first, history, limit=size, **about)
            if again is None
            else confirm(first, again, history, limit=size, **about)
        )
        decisions.append((decision, limit.relative_source))
    if limit.absolute is not None:
        bound = limit.absolute
        decision = (
            decide_bound(first, bound=bound, history=history, **about)
            if again is None
            else confirm_bound(first, again, bound=bound, history=history, **about)
        )
        decisions.append((decision, limit.absolute_source))
    return decisions


def _entry(decision: Decision, source: str) -> VerdictData:
    return {
        "status": decision.status,
        "baseline": decision.baseline,
        "now": decision.now,
        "change": decision.change,
        "interval": list(decision.interval),
        "limit": decision.limit,
        "limit_absolute": decision.limit_absolute,
        "widened": decision.widened,
        "source": source,
        "confidence": decision.confidence,
        "minimum_detectable": decision.minimum_detectable,
        "launches_needed": decision.launches_needed,
    }


def _verdict(metrics: dict[str, VerdictData], found: Found) -> VerdictData:
    statuses = {entry["status"] for entry in metrics.values()}
    status = next((one for one in _WORST_FIRST if one in statuses), "no-baseline")
    against, reason = None, None
    if isinstance(found, CaseBaseline):
        against = {"file": found.file, "sessions": found.sessions, "saved": found.saved}
    elif isinstance(found, Incomparable):
        against = {"file": found.file, "sessions": 0, "saved": found.saved}
        reason = "; ".join(map(str, found.differences))
        if status != "regressed":
            status = "incomparable"
    elif status != "regressed":
        status = "no-baseline"
    return {
        "status": status,
        "against": against,
        "reason": reason,
        "metrics": metrics,
        "confirmation": None,
    }


def thresholds(metrics: Mapping[str, Any], limits: Mapping[str, Limit]) -> dict[str, VerdictData]:
    """The limits that this run holds a later one to, for its record."""
    found = {}
    for metric, limit in limits.items():
        value = metrics[metric]["value"]
        relative = limit.relative
        found[metric] = {
            "limit": limit.absolute if relative is None else value * (1 + relative),
            "relative": relative,
            "absolute": limit.absolute,
            "source": limit.relative_source or limit.absolute_source,
        }
    return found
