"""A comparison of two files in words: for a terminal, and as Markdown for a pull request."""

from collections.abc import Sequence

from pytest_dnnbench import harmless
from pytest_dnnbench.counted import counted
from pytest_dnnbench.results.records.schema import Record
from pytest_dnnbench.results.records.verdict import MetricVerdict, Verdict
from pytest_dnnbench.results.verdicts.compare import SessionComparison
from pytest_dnnbench.results.verdicts.text import (
    elsewhere_text,
    figure,
    held_lines,
    metric_lines,
    notes_of,
)

_MARKS = {"regressed": "🔴", "improved": "🟢", "noisy": "🟡", "ok": "⚪"}
_HEAD = [
    "| case | metric | baseline | now | change | 95% interval | limit | |",
    "|---|---|--:|--:|--:|--:|--:|---|",
]


def plain(comparison: SessionComparison) -> str:
    """One paragraph per case that is not simply ok, then the counts."""
    lines = [f"{comparison.baseline} -> {comparison.now.path.name}"]
    for name, verdict in comparison.sorted_verdicts():
        if verdict.status == "ok":
            continue
        lines.append(f"{verdict.status}: {name}")
        if verdict.status == "regressed" and (other := elsewhere_text(verdict)):
            lines.append(f"  {other}")
        entries = comparison.now.cases[name].metrics
        for metric, judged in verdict.metrics.items():
            if judged.status == "regressed":
                lines += metric_lines(metric, judged, entries[metric].unit)
        lines += [f"  limit held: {line}" for line in held_lines(verdict, entries)]
        lines += [f"  {note}" for note in notes_of(verdict)]
    return harmless.lines([*lines, *_missing(comparison), _counts(comparison)])


def markdown(comparison: SessionComparison) -> str:
    """A table of what is not ok, the rest folded away."""
    worst = "regressed" if comparison.regressed else "no regression"
    lines = [f"### Benchmarks: {worst}", "", _counts(comparison), ""]
    verdicts = comparison.sorted_verdicts()
    changed = [name for name, verdict in verdicts if verdict.status != "ok"]
    unchanged = [name for name, verdict in verdicts if verdict.status == "ok"]
    if changed:
        lines += _table(comparison, changed)
    if unchanged:
        table = _table(comparison, unchanged)
        summary = f"<details><summary>{len(unchanged)} ok</summary>"
        lines += ["", summary, "", *table, "", "</details>"]
    warnings = [
        f"{name}: {line}"
        for name, verdict in verdicts
        for line in (*_warnings(verdict), elsewhere_text(verdict))
        if line
    ]
    if remarks := [*warnings, *_missing(comparison)]:
        lines += ["", *(f"- {harmless.markdown_text(line)}" for line in remarks)]
    return "\n".join(lines)


def _table(comparison: SessionComparison, names: Sequence[str]) -> list[str]:
    rows = [
        row
        for name in names
        for row in _rows(name, comparison.verdicts[name], comparison.now.cases[name])
    ]
    return [*_HEAD, *rows]


def _rows(name: str, verdict: Verdict, record: Record) -> list[str]:
    case = f"| {harmless.markdown_code(name)} |"
    if not verdict.metrics:
        reason = harmless.markdown_code(verdict.reason or "")
        return [f"{case} | | | | | | {verdict.status} {reason} |"]
    rows = [
        f"{case} {metric} | {_cells(judged, record.metrics[metric].unit)}"
        for metric, judged in verdict.metrics.items()
    ]
    unjudged = [
        f"{case} {metric} | | | | | | not judged: {harmless.markdown_code(reason)} |"
        for metric, reason in verdict.unjudged.items()
    ]
    return rows + unjudged


def _warnings(verdict: Verdict) -> list[str]:
    return [
        f"{name}: {metric.warning}" for name, metric in verdict.metrics.items() if metric.warning
    ]


def _cells(metric: MetricVerdict, unit: str) -> str:
    low, high = metric.interval
    limit = (
        f"{metric.limit:+.1%}"
        if metric.limit is not None
        else _figure(metric.limit_absolute or 0.0, unit)
    )
    return (
        f"{_figure(metric.baseline, unit)} | {_figure(metric.now, unit)} | {metric.change:+.1%}"
        f" | {low:+.1%} to {high:+.1%} | {limit}"
        f" | {_MARKS.get(metric.status, '')} {metric.status} |"
    )


def _figure(value: float, unit: str) -> str:
    """The unit is what the file says."""
    return harmless.markdown_text(figure(value, unit))


def _missing(comparison: SessionComparison) -> list[str]:
    now = comparison.now.path.name
    lines = [f"{now} lacks {name}" for name in comparison.only_baseline]
    lines += [f"{comparison.baseline} lacks {name}" for name in comparison.only_now]
    return lines + [f"passed over: {why}" for why in comparison.passed_over]


def _counts(comparison: SessionComparison) -> str:
    counts = (f"{count} {status}" for status, count in comparison.counts().items())
    number = len(comparison.verdicts)
    return f"{counted(number, 'case')}: {', '.join(counts)}"
