"""Two environments side by side in a report: the sentences and the table, the same for Markdown,
CSV and the page. The words are those of the session's summary
(results/verdicts/side_by_side_text.py)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_dnnbench.report.runs import Result
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.results.records.side_by_side import OtherSide
from pytest_dnnbench.results.verdicts.side_by_side_text import (
    SideRow,
    about_lines,
    answers,
    reason,
    rows_of,
)

HEADS = ("case", "metric", "A", "B", "change", "95% interval", "B is", "")


@dataclass(frozen=True, slots=True)
class SideTable:
    """What was compared and what came of it, in sentences; a row of texts for each metric of each
    case, under HEADS; the status of each row; of each case of which it is known why one side is
    slower, the lines that say it."""

    sentences: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    statuses: tuple[str, ...]
    reasons: tuple[tuple[str, ...], ...]


def side_table(study: Study) -> SideTable | None:
    """The table of a study; None where no case was measured in two environments."""
    by_side: dict[str, dict[str, OtherSide]] = {}
    for result in study.measured:
        if other := result.record.against:
            by_side.setdefault(other.side.name, {})[result.name] = other
    if not by_side:
        return None
    sentences = [
        sentence
        for others in by_side.values()
        for sentence in (*about_lines(next(iter(others.values())).side, others), *answers(others))
    ]
    rows = [row for result in study.measured for row in rows_of(result.name, result.record)]
    reasons = [
        (f"{result.name}: {lines[0]}", *lines[1:])
        for result in study.measured
        if result.record.against and (lines := reason(result.record.against))
    ]
    return SideTable(
        tuple(sentences),
        tuple(map(_cells, rows)),
        tuple(row.status for row in rows),
        tuple(reasons),
    )


def _cells(row: SideRow) -> tuple[str, ...]:
    return (row.case, row.metric, row.a, row.b, row.change, row.interval, row.status, row.remark)


def csv_rows(results: Sequence[Result]) -> list[Mapping[str, object]]:
    """A row of raw values for each metric of each case; the figures are in `unit`."""
    return [
        {
            "test": result.name,
            "side_b": other.side.name,
            "differences": "; ".join(other.side.differences),
            "metric": metric,
            "unit": result.record.metrics[metric].unit,
            "a": each.a,
            "b": each.b,
            "change_fraction": each.change,
            "interval_low_fraction": each.interval[0],
            "interval_high_fraction": each.interval[1],
            "detectable_fraction": each.detectable,
            "pairs": each.pairs,
            "pairs_disturbed": each.disturbed,
            "status": each.status,
            "limit_fraction": each.limit,
            "limit_broken": each.broken,
            "slower_side": other.slower or "",
            "why": "; ".join(line.strip() for line in reason(other)),
        }
        for result in results
        if (other := result.record.against)
        for metric, each in other.compared.items()
        if metric in result.record.metrics and each.is_possible
    ]
