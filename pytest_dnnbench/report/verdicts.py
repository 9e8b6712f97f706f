"""Verdicts of records as text: a word for a table, and lines for a case's details."""

import math
import sys
from collections.abc import Mapping, Sequence

from pytest_dnnbench.counted import counted
from pytest_dnnbench.metrics import THROUGHPUT, metric_row
from pytest_dnnbench.report.figures import amount, change
from pytest_dnnbench.report.runs import Result
from pytest_dnnbench.report.text import printable
from pytest_dnnbench.results.records.schema import Record
from pytest_dnnbench.results.records.verdict import Against, MetricVerdict, Verdict

MEMORY = {
    "allocated_peak_bytes": "allocated",
    "cached_peak_bytes": "cached",
    "resident_peak_bytes": "resident",
}
"""Memory's metrics, by the short names that a table has room for."""


def verdict_text(verdict: Verdict) -> str | None:
    """Status and the change that decided it: "regressed -5.1%", "regressed allocated +12.0%",
    "partial: allocated only". A change that is hard to believe has a question mark. Without a
    baseline what became of the absolute limit that is kept by the least, "limit held +4.0%"; None
    without any."""
    if verdict.status == "no-baseline":
        return _bound_text(verdict.metrics)
    if verdict.status == "partial":
        return f"partial: {', '.join(map(_short, verdict.metrics))} only"
    metric = deciding_metric(verdict) or THROUGHPUT
    if metric not in verdict.metrics:
        return verdict.status
    row = verdict.metrics[metric]
    subject = "" if metric == THROUGHPUT else f" {_short(metric)}"
    return f"{verdict.status}{subject} {change(row.change)}{'?' if row.warning else ''}"


def keeps_limits(verdict: Verdict) -> bool:
    """Whether a case that was compared with no baseline has absolute limits and keeps them all."""
    rows = verdict.metrics.values()
    without = verdict.status == "no-baseline" and bool(rows)
    return without and all(row.status == "ok" for row in rows)


def unjudged_text(results: Sequence[Result]) -> str | None:
    """What a reader of these cases is told where none was compared with a baseline; None where one
    was."""
    if any(result.status != "no-baseline" for result in results):
        return None
    if any(result.record.verdict.metrics for result in results):
        return "no baseline to compare with: only absolute limits were judged"
    return "no verdict: there is no baseline to compare with"


def _bound_text(metrics: Mapping[str, MetricVerdict]) -> str | None:
    if not metrics:
        return None

    def doubtful_then_nearest(name: str) -> tuple[bool, float]:
        ratio = max(1 + metrics[name].change, sys.float_info.min)  # a file may hold any change
        return metrics[name].status == "ok", abs(math.log(ratio))

    nearest = min(metrics, key=doubtful_then_nearest)
    row = metrics[nearest]
    subject = "" if nearest == THROUGHPUT else f" {_short(nearest)}"
    word = "held" if row.status == "ok" else row.status
    return f"limit{subject} {word} {change(row.change)}"


def deciding_metric(verdict: Verdict) -> str | None:
    """The metric that gave a case its status, throughput first; None where no metric did."""
    deciding = [name for name, row in verdict.metrics.items() if row.status == verdict.status]
    return THROUGHPUT if THROUGHPUT in deciding else next(iter(deciding), None)


def baseline_text(against: Against) -> str:
    """The baseline of a verdict: its file, and how many sessions count."""
    sessions = counted(against.sessions, "session")
    return printable(f"{against.file}, {sessions}")


def judged_lines(record: Record) -> list[str]:
    """A line per metric that was judged, then what was not and why, and what else is other than it
    was for the baseline."""
    verdict = record.verdict
    entries = record.metrics
    lines = [
        _line(name, row, entries[name].unit if name in entries else metric_row(name).unit)
        for name, row in verdict.metrics.items()
    ]
    lines += [
        f"{metric_row(name).title} not judged: {why}" for name, why in verdict.unjudged.items()
    ]
    lines += [f"other conditions than the baseline's: {fact}" for fact in verdict.elsewhere]
    return [printable(line) for line in lines]


def _line(metric: str, row: MetricVerdict, unit: str) -> str:
    low, high = map(change, row.interval)
    line = f"{metric_row(metric).title} {row.status}: {change(row.change)} ({low} to {high})"
    if row.limit_absolute is not None:
        bound = "at least" if metric_row(metric).better == "higher" else "at most"
        line += f" from the required {bound} {amount(row.limit_absolute, unit)}"
    if row.limit is not None:
        line += f", limit {change(row.limit)}"
    line += f", smallest detectable change {row.minimum_detectable:.1%}"
    return "; ".join(filter(None, (line, row.since, row.warning)))


def _short(metric: str) -> str:
    return MEMORY.get(metric) or metric_row(metric).title
