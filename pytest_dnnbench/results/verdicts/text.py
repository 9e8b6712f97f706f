"""Verdicts in words: the message of a case that failed, and one line for a table or a summary."""

from collections.abc import Mapping

from pytest_dnnbench import harmless
from pytest_dnnbench.metrics import METRICS, metric_row
from pytest_dnnbench.results.records.schema import MetricEntry, Record
from pytest_dnnbench.results.records.verdict import (
    Confirmation,
    MachineChange,
    MetricVerdict,
    Verdict,
)
from pytest_dnnbench.results.statistics.noise import WINDOW
from pytest_dnnbench.results.verdicts.straggler import straggler_of
from pytest_dnnbench.results.verdicts.why import why_lines

_SCALES = {
    "B": (("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10)),
    "s": (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)),
}
_STANDS_OUT = 1.05
"""A rank is named when it has this many times what the middle one of the others has."""


def failure_message(record: Record) -> str:
    """What else changed on the machine, and the slow rank, if one is; then baseline, now, change,
    limit, interval and confidence of each metric that regressed; then what the others are, what was
    not judged, and why the case got slower, if that is known."""
    verdict = record.verdict
    lines = [f"regressed: {record.measured_case.label}, {_against(verdict)}"]
    if other := elsewhere_text(verdict):
        lines.append(f"  {other}")
    if slow := slow_rank(record):
        lines.append(f"  {slow}")
    for name, metric in verdict.metrics.items():
        if metric.status == "regressed":
            entry = record.metrics[name]
            lines += metric_lines(name, metric, entry.unit)
            lines += _again(name, verdict.confirmation, entry.unit)
            lines += _ranks(name, entry)
    others = [
        f"{name} {metric.status}"
        for name, metric in verdict.metrics.items()
        if metric.status != "regressed"
    ]
    if others:
        lines.append(f"  others: {', '.join(others)}")
    lines += [f"  {line}" for line in (*unjudged_lines(verdict), *why_lines(record.why))]
    return harmless.lines(lines)


def metric_lines(name: str, metric: MetricVerdict, unit: str) -> list[str]:
    """One metric: its figures, and what they were judged by."""
    lines = [_compared(name, metric, unit), f"    {_judged(metric)}"]
    if metric.since:
        lines.append(f"    {metric.since}")
    if metric.left_out:
        lines.append(f"    {metric.disturbance}, left out")
    if metric.machine:
        lines.append(f"    {_machine(metric.machine)}, which does not explain it")
    return lines


def slow_rank(record: Record) -> str | None:
    """Which rank the others wait for; None unless one is known to be slow."""
    slow = straggler_of(record)
    if slow is None:
        return None
    its_own, others = figure(slow.own_work_s, "s"), figure(slow.others_s, "s")
    return (
        f"rank {slow.rank} is the slow one:"
        f" its own part of a step takes {its_own}, the others' {others}"
    )


def notes_of(verdict: Verdict) -> list[str]:
    """What a reader should know of a case that did not fail."""
    if verdict.status == "incomparable":
        file = verdict.against.file if verdict.against else "the baseline"
        return [f"not comparable with {file}: {verdict.reason}"]
    noisy: dict[str, list[str]] = {}
    improved: dict[str, list[str]] = {}
    for name, metric in verdict.metrics.items():
        shown = f"{name} {metric.change:+.1%}"
        if metric.limit_absolute is not None:
            shown += " from its limit"
        if metric.status == "noisy":
            noisy.setdefault(_remedy(metric), []).append(shown)
        elif metric.status == "improved":
            improved.setdefault(_confidence(metric.confidence), []).append(shown)
    notes = [f"{', '.join(names)}: {remedy}" for remedy, names in noisy.items()]
    notes += [f"{', '.join(names)}, {confidence}" for confidence, names in improved.items()]
    notes += [
        f"{name}: WARNING: {metric.warning}"
        for name, metric in verdict.metrics.items()
        if metric.warning
    ]
    notes += unjudged_lines(verdict)
    if notes and (other := elsewhere_text(verdict)):
        notes.append(other)
    return notes


def held_lines(verdict: Verdict, entries: Mapping[str, MetricEntry]) -> list[str]:
    """The absolute limits that a case keeps, and by how much, where that is all that was judged: it
    was compared with no baseline. `entries` are its metrics."""
    if verdict.status not in ("no-baseline", "incomparable"):
        return []
    return [
        f"{_compared(name, metric, entries[name].unit).lstrip()}, kept by {abs(metric.change):,.1%}"
        for name, metric in verdict.metrics.items()
        if metric.status == "ok"
    ]


def worst_change(verdict: Verdict) -> float:
    """The largest change for the worse of a metric, as a positive fraction: what to look at first
    of cases that are noisy. Below zero where all metrics got better."""
    return max(
        (
            -metric.change if METRICS[name].better == "higher" else metric.change
            for name, metric in verdict.metrics.items()
            if name in METRICS
        ),
        default=0.0,
    )


def unjudged_lines(verdict: Verdict) -> list[str]:
    """What was judged where not every limit was, and why not; none where every one was."""
    if verdict.status in ("no-baseline", "incomparable"):
        return []
    judged = ", ".join(verdict.metrics)
    only = f"ok: {judged} only; " if verdict.status == "partial" else ""
    metrics_of: dict[str, list[str]] = {}
    for name, reason in verdict.unjudged.items():
        metrics_of.setdefault(reason, []).append(name)
    return [
        f"{only}{', '.join(names)} not judged, because {reason}"
        for reason, names in metrics_of.items()
    ]


def elsewhere_text(verdict: Verdict) -> str | None:
    """The facts that no session of the baseline had as this one has them; None without any."""
    if not verdict.elsewhere:
        return None
    return (
        f"measured under other conditions than the baseline ({'; '.join(verdict.elsewhere)}):"
        " a difference may come from there"
    )


def figure(value: float, unit: str) -> str:
    """A value with its unit, for people: seconds and bytes in a unit of their size."""
    for name, scale in _SCALES.get(unit, ()):
        if abs(value) >= scale:
            digits = f"{value / scale:,.4g}" if value < 1e4 * scale else f"{value / scale:,.0f}"
            return f"{digits} {name}"
    text = f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:,.5g}"
    return text if unit in ("", "1") else f"{text} {unit}"


def _compared(name: str, metric: MetricVerdict, unit: str) -> str:
    now = figure(metric.now, unit)
    if metric.limit_absolute is not None:
        bound = "at least" if METRICS[name].better == "higher" else "at most"
        return f"  {name}: {now}, required: {bound} {figure(metric.limit_absolute, unit)}"
    return f"  {name}: baseline {figure(metric.baseline, unit)}, now {now}, {metric.change:+.2%}"


def _judged(metric: MetricVerdict) -> str:
    low, high = metric.interval
    parts = [f"95% interval {low:+.2%} to {high:+.2%}"]
    if metric.limit is not None:
        widened = ", as small as the noise allows" if metric.widened else ""
        parts.append(f"limit {metric.limit:+.2%} ({metric.source}{widened})")
    elif metric.source:
        parts.append(f"limit from {metric.source}")
    return ", ".join([*parts, _confidence(metric.confidence)])


def _remedy(metric: MetricVerdict) -> str:
    """What would turn "noisy" into another status."""
    if metric.disturbance and not metric.left_out:
        return f"{metric.disturbance}: measure again when the devices are free"
    if metric.machine and metric.machine.explains:
        return (
            f"{_machine(metric.machine)}: measure again when it is as it was,"
            " or make a new baseline"
        )
    if metric.launches_needed:
        return f"--dnn-launches {metric.launches_needed} would settle it"
    return (
        "no number of launches up to 100 would settle it; more stored sessions may, or"
        " --dnn-against"
    )


def _machine(machine: MachineChange) -> str:
    """By how much the machine itself has changed."""
    before, now = (figure(seconds, "s") for seconds in (machine.baseline_s, machine.now_s))
    pace = f"{abs(machine.speed):.1%} {'slower' if machine.speed < 0 else 'faster'}"
    return f"the machine itself is {pace} than for the baseline (yardstick {before}, now {now})"


def _against(verdict: Verdict) -> str:
    against = verdict.against
    if against is None or not against.sessions:
        return "held to its absolute limit"
    latest = min(against.sessions, WINDOW)
    sessions = f", the last {latest} sessions" if against.sessions > 1 else ""
    return f"against {against.file}{sessions}"


def _again(metric: str, confirmation: Confirmation | None, unit: str) -> list[str]:
    if confirmation is None or metric not in confirmation.per_launch:
        return []
    values = ", ".join(figure(value, unit) for value in confirmation.per_launch[metric])
    return [f"    measured again in {confirmation.launches} fresh launches: {values}"]


def _ranks(name: str, entry: MetricEntry) -> list[str]:
    """Names a rank that has much more than the others, of a metric of which less is better."""
    ranks = entry.per_rank
    if len(ranks) < 2 or metric_row(name, entry.unit, entry.better).better != "lower":
        return []
    worst = max(range(len(ranks)), key=lambda rank: ranks[rank])
    others = sorted(value for rank, value in enumerate(ranks) if rank != worst)
    middle = others[len(others) // 2]
    if middle <= 0 or ranks[worst] < _STANDS_OUT * middle:
        return []
    more = ranks[worst] / middle - 1
    return [
        f"    rank {worst} has {figure(ranks[worst], entry.unit)}, {more:.0%} more than the others"
    ]


def _confidence(confidence: float) -> str:
    if confidence > 0.9999:
        return "confidence over 99.99%"
    return f"confidence {confidence:.4g}" if confidence < 0.01 else f"confidence {confidence:.2%}"
