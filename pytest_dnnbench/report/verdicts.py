"""Verdicts of records as text: a word for a table, and lines for a case's details."""

from pytest_dnnbench.metrics import THROUGHPUT, metric_row
from pytest_dnnbench.report.figures import change
from pytest_dnnbench.report.text import plain
from pytest_dnnbench.results.records.verdict import Against, MetricVerdict, Verdict

MEMORY = {
    "allocated_peak_bytes": "allocated",
    "cached_peak_bytes": "cached",
    "resident_peak_bytes": "resident",
}
"""Memory's metrics, by the short names that a table has room for."""


def verdict_text(verdict: Verdict) -> str | None:
    """Status and the change that decided it: "regressed -5.1%", "regressed allocated +12.0%". None
    without a baseline."""
    if verdict.status == "no-baseline":
        return None
    deciding = [name for name, row in verdict.metrics.items() if row.status == verdict.status]
    metric = THROUGHPUT if THROUGHPUT in deciding or not deciding else deciding[0]
    if metric not in verdict.metrics:
        return verdict.status
    subject = "" if metric == THROUGHPUT else f" {_short(metric)}"
    return f"{verdict.status}{subject} {change(verdict.metrics[metric].change)}"


def baseline_text(against: Against) -> str:
    """The baseline of a verdict: its file, and how many sessions count."""
    sessions = f"{against.sessions} session{'' if against.sessions == 1 else 's'}"
    return plain(f"{against.file}, {sessions}")


def verdict_lines(verdict: Verdict) -> list[str]:
    """A line per metric that was judged."""
    return [_line(metric, row) for metric, row in verdict.metrics.items()]


def _line(metric: str, row: MetricVerdict) -> str:
    low, high = map(change, row.interval)
    line = f"{metric_row(metric).title} {row.status}: {change(row.change)} ({low} to {high})"
    if row.limit is not None:
        line += f", limit {change(row.limit)}"
    return plain(f"{line}, smallest detectable change {row.minimum_detectable:.1%}")


def _short(metric: str) -> str:
    return MEMORY.get(metric) or metric_row(metric).title
