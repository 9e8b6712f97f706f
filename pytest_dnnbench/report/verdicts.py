"""Verdicts of records as text: a word for a table, and lines for a case's details."""

from pytest_dnnbench.counted import counted
from pytest_dnnbench.metrics import THROUGHPUT, metric_row
from pytest_dnnbench.report.figures import change
from pytest_dnnbench.report.text import printable
from pytest_dnnbench.results.records.verdict import Against, MetricVerdict, Verdict

MEMORY = {
    "allocated_peak_bytes": "allocated",
    "cached_peak_bytes": "cached",
    "resident_peak_bytes": "resident",
}
"""Memory's metrics, by the short names that a table has room for."""


def verdict_text(verdict: Verdict) -> str | None:
    """Status and the change that decided it: "regressed -5.1%", "regressed allocated +12.0%",
    "partial: allocated only". A change that is hard to believe has a question mark. None without a
    baseline."""
    if verdict.status == "no-baseline":
        return None
    if verdict.status == "partial":
        return f"partial: {', '.join(map(_short, verdict.metrics))} only"
    metric = deciding_metric(verdict) or THROUGHPUT
    if metric not in verdict.metrics:
        return verdict.status
    row = verdict.metrics[metric]
    subject = "" if metric == THROUGHPUT else f" {_short(metric)}"
    return f"{verdict.status}{subject} {change(row.change)}{'?' if row.warning else ''}"


def deciding_metric(verdict: Verdict) -> str | None:
    """The metric that gave a case its status, throughput first; None where no metric did."""
    deciding = [name for name, row in verdict.metrics.items() if row.status == verdict.status]
    return THROUGHPUT if THROUGHPUT in deciding else next(iter(deciding), None)


def baseline_text(against: Against) -> str:
    """The baseline of a verdict: its file, and how many sessions count."""
    sessions = counted(against.sessions, "session")
    return printable(f"{against.file}, {sessions}")


def judged_lines(verdict: Verdict) -> list[str]:
    """A line per metric that was judged, then what was not and why, and what else is other than it
    was for the baseline."""
    lines = [_line(metric, row) for metric, row in verdict.metrics.items()]
    lines += [
        f"{metric_row(name).title} not judged: {why}" for name, why in verdict.unjudged.items()
    ]
    lines += [f"other conditions than the baseline's: {fact}" for fact in verdict.elsewhere]
    return [printable(line) for line in lines]


def _line(metric: str, row: MetricVerdict) -> str:
    low, high = map(change, row.interval)
    line = f"{metric_row(metric).title} {row.status}: {change(row.change)} ({low} to {high})"
    if row.limit is not None:
        line += f", limit {change(row.limit)}"
    line += f", smallest detectable change {row.minimum_detectable:.1%}"
    return "; ".join(filter(None, (line, row.since, row.warning)))


def _short(metric: str) -> str:
    return MEMORY.get(metric) or metric_row(metric).title
