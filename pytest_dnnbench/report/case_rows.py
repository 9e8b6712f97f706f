"""The rows of the page's table of all cases: a row of cells, and the details that it opens to.

The table is bounded: when it would grow too large, rows lose their details, and then rows are left
out.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pytest_dnnbench.metrics import THROUGHPUT, metric_row
from pytest_dnnbench.report.engine import template
from pytest_dnnbench.report.facts import evidence, fact_line
from pytest_dnnbench.report.figures import NOTHING, amount, bounds, range_text
from pytest_dnnbench.report.plans import plan_details
from pytest_dnnbench.report.predictions import prediction_details, runtime_lines
from pytest_dnnbench.report.reproduce import command
from pytest_dnnbench.report.rows import CLEAR, Column, Row, Section, columns, has_mixed_rates
from pytest_dnnbench.report.runs import Result
from pytest_dnnbench.report.study import Study, case_settings
from pytest_dnnbench.report.verdicts import baseline_text, judged_lines, verdict_text

MOST_DETAILED, MOST_ROWS = 3_000_000, 3_600_000
"""Characters of the rows up to which rows have details, and of all rows."""


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a column. `is_number`: the column sorts, and is set, as numbers."""

    text: str
    key: str
    is_number: bool


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: its text, and the value that it sorts by. `best`: clearly the fastest case."""

    head: Head
    text: str
    sort: object
    best: bool


@dataclass(frozen=True, slots=True)
class Details:
    """What a row opens to. `figures`: name, median and interval of each metric; `environment`: the
    number of its entry in the page's list, if it is there."""

    figures: list[tuple[str, str, str]]
    status: str
    against: str
    reason: str
    judged: list[str]
    correctness: list[str]
    settings: str
    plan: list[str]
    prediction: list[str]
    environment: int | None
    recorded: str
    command: str
    saved: str


@dataclass(frozen=True, slots=True)
class CaseRows:
    """The rows that the page has room for. `bare`: rows without details; `left_out`: cases without
    a row."""

    heads: list[Head]
    rows: list[Markup]
    bare: int
    left_out: int


def case_rows(
    study: Study, sections: Sequence[Section], environments: Mapping[str, int]
) -> CaseRows:
    """All rows that fit, the first of them with their details. `environments`: the number of each
    environment in the page's list, by `environment_key`."""
    table = _Table(study, sections)
    row_template = template("row.html")
    rows: list[Markup] = []
    size = bare = 0
    for section in sections:
        for row in section.rows:
            cells, name = table.cells(section, row), row.result.name
            for details in (_details(row.result, study, environments), None):
                if details and size >= MOST_DETAILED:
                    continue
                text = row_template.render(cells=cells, name=name, details=details)
                if size + len(text) <= MOST_ROWS:
                    size += len(text)
                    bare += details is None
                    rows.append(Markup(text))  # noqa: S704 # the template has escaped it
                    break
    return CaseRows(table.heads, rows, bare, table.count - len(rows))


def environment_key(result: Result) -> str:
    """Equal for results of the same environment."""
    return json.dumps(result.record.environment.must_match, sort_keys=True)


class _Table:
    """The columns of the table: where a case belongs, then those of every format. The verdict is
    always there, and sorts by its status."""

    def __init__(self, study: Study, sections: Sequence[Section]) -> None:
        rows = [row for section in sections for row in section.rows]
        self.count = len(rows)
        self._columns = [column for column in columns(rows) if column.key != "verdict"]
        self._has_setting = any(group.setting for group in study.groups)
        self._mixed = has_mixed_rates(study.latest)
        setting = [Head("setting", "setting", False)] if self._has_setting else []
        self.heads = [
            Head("model", "model", False),
            Head("phase", "phase", False),
            *setting,
            *(Head(column.head, column.key, not column.is_text) for column in self._columns),
        ]
        # Beside the figures that it is about, where a narrow window shows it.
        self._verdict_place = len(self.heads) - len(self._columns) + self._figures()
        self.heads.insert(self._verdict_place, Head("verdict", "verdict", False))

    def _figures(self) -> int:
        """The number of columns up to the throughput and its half-width."""
        keys = [column.key for column in self._columns]
        last = [keys.index(key) for key in (THROUGHPUT, "throughput_half_width") if key in keys]
        return max(last, default=-1) + 1

    def cells(self, section: Section, row: Row) -> list[Cell]:
        """A cell under each head."""
        group = section.group
        texts: list[tuple[str, object]] = [(group.model, group.model), (group.phase, group.phase)]
        if self._has_setting:
            texts.append((group.setting, group.setting))
        texts += [(self._text(column, row), column.value(row)) for column in self._columns]
        verdict = verdict_text(row.result.record.verdict) or row.status
        texts.insert(self._verdict_place, (verdict, row.status))
        return [
            Cell(
                head,
                text,
                "" if value is None else value,
                best=head.key == THROUGHPUT and row.rank == CLEAR,
            )
            for head, (text, value) in zip(self.heads, texts, strict=True)
        ]

    def _text(self, column: Column, row: Row) -> str:
        text = column.text(row)
        if self._mixed and column.key == THROUGHPUT and text != NOTHING:
            return f"{text} {row.result.throughput_unit}"
        return text


def _figure(result: Result, metric: str, unit: str) -> str:
    """A metric's figure; in brackets the range of its launches where too few were undisturbed."""
    if result.launches(metric).doubt:
        return range_text(result, metric, lambda value: amount(value, unit))
    return amount(result.value(metric), unit)


def _details(result: Result, study: Study, environments: Mapping[str, int]) -> Details:
    record, verdict, run = result.record, result.record.verdict, study.runs[result.run]
    chosen: dict[str, object] = {**case_settings(result)}
    if options := result.case.options:
        chosen["options"] = ", ".join(f"{name} {value}" for name, value in options.items())
    return Details(
        figures=[
            (
                metric_row(name, entry.unit, entry.better).title,
                _figure(result, name, entry.unit),
                bounds(result, name),
            )
            for name, entry in record.metrics.items()
        ],
        status=result.status,
        against=baseline_text(verdict.against) if verdict.against else "",
        reason=verdict.reason or "",
        judged=judged_lines(record),
        correctness=evidence(record.correctness),
        settings=fact_line(chosen),
        plan=(
            [*plan_details(record.plan), *runtime_lines(record.prediction)] if record.plan else []
        ),
        prediction=(
            prediction_details(record.prediction) if record.prediction and not record.plan else []
        ),
        environment=environments.get(environment_key(result)),
        recorded=fact_line(record.environment.recorded),
        command=command(result),
        saved=run.saved or run.source,
    )
