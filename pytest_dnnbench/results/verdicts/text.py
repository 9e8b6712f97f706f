"""Verdicts in words: the message of a case that failed, and one line for a table or a summary."""

from collections.abc import Mapping
from typing import Any

from pytest_dnnbench.metrics import METRICS, YARDSTICK
from pytest_dnnbench.results.records.record import Record
from pytest_dnnbench.results.verdicts.straggler import straggler_of

_SCALES = {
    "B": (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)),
    "s": (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)),
}


def failure_message(record: Record, verdict: Mapping[str, Any]) -> str:
    """The slow rank, if one is; baseline, now, change, limit, interval and how sure, for each
    metric that regressed."""
    case, metrics = record["case"], verdict["metrics"]
    lines = [
        f"regressed: {case['framework']}-{case['model']}-{case['gpus']}gpu ({case['phase']}), {_against(verdict)}"
    ]
    if slow := slow_rank(record):
        lines.append(f"  {slow}")
    for metric, entry in metrics.items():
        if entry["status"] == "regressed":
            lines += metric_lines(metric, entry)
            lines += _again(metric, verdict.get("confirmation"))
            lines += _ranks(metric, record)
    others = [
        f"{metric} {entry['status']}"
        for metric, entry in metrics.items()
        if entry["status"] != "regressed"
    ]
    if others:
        lines.append(f"  others: {', '.join(others)}")
    return "\n".join(lines)


def metric_lines(metric: str, entry: Mapping[str, Any]) -> list[str]:
    """One metric: what it was and is, and by what it was judged."""
    now = figure(metric, entry["now"])
    if entry.get("limit_absolute") is not None:
        bound = "at least" if _better(metric) == "higher" else "at most"
        compared = (
            f"  {metric}: {now}, {bound} {figure(metric, entry['limit_absolute'])} is asked for"
        )
    else:
        compared = f"  {metric}: baseline {figure(metric, entry['baseline'])}, now {now}, {entry['change']:+.2%}"
    low, high = entry["interval"]
    judged = [f"95% interval {low:+.2%} to {high:+.2%}"]
    if entry.get("limit") is not None:
        widened = ", as small as the noise allows" if entry.get("widened") else ""
        judged.append(f"limit {entry['limit']:+.2%} ({entry['source']}{widened})")
    elif entry.get("source"):
        judged.append(f"limit from {entry['source']}")
    judged.append(f"{_sure(entry['confidence'])} sure")
    disturbed = [f"    {entry['disturbance']}, left out"] if entry.get("left_out") else []
    machine = [f"    {_machine(entry)}, which does not explain it"] if entry.get("machine") else []
    return [compared, "    " + ", ".join(judged), *disturbed, *machine]


def slow_rank(record: Record) -> str | None:
    """Which rank the others wait for; None where no rank is known to be slow."""
    found = straggler_of(record)
    if found is None:
        return None
    own, others = (figure("step_time_s", value) for value in (found.own_work_s, found.others_s))
    return f"rank {found.rank} is the slow one: its own part of a step takes {own}, the others' {others}"


def notes_of(verdict: Mapping[str, Any]) -> list[str]:
    """What a reader should know of a case that did not fail."""
    if verdict["status"] == "incomparable":
        return [f"not comparable with {verdict['against']['file']}: {verdict['reason']}"]
    notes = []
    for metric, entry in verdict["metrics"].items():
        if entry["status"] == "noisy":
            notes.append(f"{metric} {entry['change']:+.1%}: {_settle(entry)}")
        elif entry["status"] == "improved":
            notes.append(f"{metric} {entry['change']:+.1%}, {_sure(entry['confidence'])} sure")
    return notes


def _settle(entry: Mapping[str, Any]) -> str:
    """What would turn "noisy" into another word."""
    if entry.get("disturbance") and not entry.get("left_out"):
        return f"{entry['disturbance']}: measure again when the devices are free"
    if (entry.get("machine") or {}).get("explains"):
        return f"{_machine(entry)}: measure again when it is as it was, or make a new baseline"
    needed = entry.get("launches_needed")
    return (
        f"--dnn-launches {needed} would settle it"
        if needed
        else "no number of launches up to 100 settles it"
    )


def _machine(entry: Mapping[str, Any]) -> str:
    """By how much the machine itself has changed."""
    machine = entry["machine"]
    before, now = (figure(YARDSTICK, machine[when]) for when in ("baseline_s", "now_s"))
    pace = f"{abs(machine['speed']):.1%} {'slower' if machine['speed'] < 0 else 'faster'}"
    return f"the machine itself is {pace} than for the baseline (yardstick {before}, now {now})"


def figure(metric: str, value: float) -> str:
    """A value with its unit, as one reads it."""
    unit = METRICS[metric].unit if metric in METRICS else ""
    for name, scale in _SCALES.get(unit, ()):
        if abs(value) >= scale:
            return (
                f"{value / scale:,.4g} {name}"
                if value < 1e4 * scale
                else f"{value / scale:,.0f} {name}"
            )
    text = f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:,.5g}"
    return text if unit in ("", "1") else f"{text} {unit}"


def _against(verdict: Mapping[str, Any]) -> str:
    against = verdict.get("against")
    if not against or not against["sessions"]:
        return "held to its absolute limit"
    sessions = (
        f", the last {min(against['sessions'], 5)} sessions" if against["sessions"] > 1 else ""
    )
    return f"against {against['file']}{sessions}"


def _again(metric: str, confirmation: Mapping[str, Any] | None) -> list[str]:
    if not confirmation or metric not in confirmation["per_launch"]:
        return []
    again = ", ".join(figure(metric, value) for value in confirmation["per_launch"][metric])
    return [f"    measured again in {confirmation['launches']} fresh launches: {again}"]


def _ranks(metric: str, record: Record) -> list[str]:
    """Names a rank that stands out from the others."""
    values = record["metrics"][metric]["per_rank"]
    if len(values) < 2 or _better(metric) != "lower":
        return []
    worst = max(range(len(values)), key=lambda rank: values[rank])
    others = sorted(value for rank, value in enumerate(values) if rank != worst)
    middle = others[len(others) // 2]
    if middle <= 0 or values[worst] < 1.05 * middle:
        return []
    more = values[worst] / middle - 1
    return [
        f"    rank {worst} has {figure(metric, values[worst])}, {more:.0%} more than the others"
    ]


def _better(metric: str) -> str:
    return METRICS[metric].better if metric in METRICS else "higher"


def _sure(confidence: float) -> str:
    return (
        "over 99.99%"
        if confidence > 0.9999
        else f"{confidence:.4g}"
        if confidence < 0.01
        else f"{confidence:.2%}"
    )
