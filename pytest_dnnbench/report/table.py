"""The terminal's table at the end of a session: a section per model and phase, then the timed
functions, sized to the terminal.

When the terminal is too narrow, the table gives up, in this order: half of the gaps, the middle of
long names, the columns of least worth (rows.py).
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_dnnbench.metrics import THROUGHPUT
from pytest_dnnbench.report.breakdowns import breakdown_lines
from pytest_dnnbench.report.captions import launches_and_steps
from pytest_dnnbench.report.functions import function_table
from pytest_dnnbench.report.plans import plan_lines
from pytest_dnnbench.report.predictions import prediction_lines
from pytest_dnnbench.report.rows import AHEAD, CLEAR, Column, Row, Section, columns, sections
from pytest_dnnbench.report.runs import run_in_memory
from pytest_dnnbench.report.study import Study, throughput_unit
from pytest_dnnbench.report.text import cut_middle, pad, width_of
from pytest_dnnbench.report.verdicts import unjudged_text
from pytest_dnnbench.results.records.schema import Record

MARKS = {CLEAR: ">", AHEAD: "~", "": " "}

COLOURS = {"regressed": "red", "improved": "green", "noisy": "yellow", "incomparable": "yellow"}
"""Of a verdict's status, by pytest's names."""

MOST_WIDTH = {"framework": 28, "test": 32, "plan": 12, "verdict": 28}
"""What a column of text may take where there is room for all columns."""

MIN_NAME = 8
"""What the frameworks' names keep where there is little room."""

GAP, LEAST_GAP = 2, 1
"""Blanks between columns."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table and its markup, in pytest's names, for terminals with colours."""

    text: str
    markup: tuple[str, ...] = ()


def study_of(records: Mapping[str, Record]) -> Study:
    """The study of one session's records, by the names of their tests."""
    return Study([run_in_memory(records)])


def table_lines(study: Study, width: int = 80) -> list[Line]:
    """The lines of the table, none longer than `width`."""
    parts, functions = sections(study), _function_lines(study, width)
    rows = [row for section in parts for row in section.rows]
    broken_down = [*map(Line, [*breakdown_lines(study, width), *prediction_lines(study, width)])]
    if not rows and functions:
        notes = _paragraphs(_function_notes(study), width)
        return [*functions, Line(""), *broken_down, *notes]
    if not rows:
        return _paragraphs(["no case was measured", *study.notes], width)
    layout = _Layout(rows, width)
    lines: list[Line] = []
    for section in parts:
        lines += [*layout.section(section), Line("")]
    lines += [*functions, Line("")] if functions else []
    lines += broken_down
    return lines + _paragraphs([*_notes(study, rows, layout.keys), *plan_lines(study)], width)


def _function_lines(study: Study, width: int) -> list[Line]:
    """The table of timed functions, if there are any."""
    table = function_table(study)
    if table is None:
        return []
    head, *rows = table.lines(width - 2)
    coloured = [
        Line(f"  {text}", (COLOURS[status],) if status in COLOURS else ())
        for text, status in zip(rows, table.statuses, strict=True)
    ]
    return [Line("timed functions", ("bold",)), Line(f"  {head}"), *coloured]


def _function_notes(study: Study) -> list[str]:
    """What the figures mean where there is no other table."""
    lines = [f"median of {launches_and_steps(study)}; ± half of the 95% interval over launches"]
    if any(result.record.run.oversubscribed for result in study.functions):
        lines.append("* more ranks than cores or GPUs: says nothing about speed")
    return [*lines, *filter(None, [unjudged_text(study.functions)]), *study.notes]


def _paragraphs(texts: Sequence[str], width: int) -> list[Line]:
    """Each text on as many lines as it takes; a word that is too long is cut."""
    return [Line(line) for text in texts for line in _wrapped(text, width)]


def _wrapped(text: str, width: int) -> list[str]:
    broken = textwrap.wrap(
        text, max(20, width), subsequent_indent="    ", break_long_words=False
    ) or [""]
    return [cut_middle(line, width) for line in broken]


class _Layout:
    """The columns that fit, and how wide each is: alike in all sections."""

    def __init__(self, rows: Sequence[Row], width: int) -> None:
        self._width = width
        self._gap = GAP
        self._columns = columns(rows)
        self._cells = {
            id(row): {column.key: column.text(row) for column in self._columns} for row in rows
        }
        self._widths = {column.key: self._natural(column, rows) for column in self._columns}
        self._fit()

    @property
    def keys(self) -> list[str]:
        """Keys of the columns that are shown."""
        return [column.key for column in self._columns]

    def section(self, section: Section) -> list[Line]:
        """Heading, column heads and rows."""
        heading = Line(cut_middle(section.heading, self._width), ("bold",))
        heads = {column.key: column.brief or column.head for column in self._columns}
        return [heading, Line(self._line(" ", heads)), *(self._row(row) for row in section.rows)]

    def _row(self, row: Row) -> Line:
        colour = COLOURS.get(row.status)
        markup = [colour] if colour else []
        if row.rank == CLEAR:
            markup.append("bold")
        return Line(self._line(MARKS[row.rank], self._cells[id(row)]), tuple(markup))

    def _line(self, mark: str, cells: dict[str, str]) -> str:
        shown = []
        for column in self._columns:
            width = self._widths[column.key]
            shown.append(pad(cut_middle(cells[column.key], width), width, left=not column.is_text))
        return cut_middle(f"{mark} {(' ' * self._gap).join(shown)}".rstrip(), self._width)

    def _natural(self, column: Column, rows: Sequence[Row]) -> int:
        """The width that a column would take if there were room."""
        head = len(column.brief or column.head)
        longest = max(head, *(width_of(self._cells[id(row)][column.key]) for row in rows))
        return min(longest, MOST_WIDTH.get(column.key, longest))

    def _fit(self) -> None:
        """Gives up gaps, names and columns until the lines fit."""
        while True:
            for self._gap in (GAP, LEAST_GAP):
                if self._excess() <= 0:
                    return
            droppable = [column for column in self._columns if column.worth is not None]
            if self._shorten(self._excess()) or not droppable:
                return
            self._columns.remove(min(droppable, key=_worth))

    def _excess(self) -> int:
        """Columns of the terminal that the lines lack; the mark and its blank take two."""
        gaps = self._gap * (len(self._columns) - 1)
        return 2 + sum(self._widths[column.key] for column in self._columns) + gaps - self._width

    def _shorten(self, excess: int) -> bool:
        """Takes the excess from the frameworks' names, where they can spare it."""
        width = self._widths["framework"]
        if width - max(MIN_NAME, len("framework"), width // 2) < excess:
            return False
        self._widths["framework"] -= excess
        return True


def _worth(column: Column) -> int:
    return column.worth or 0


def _notes(study: Study, rows: Sequence[Row], keys: Sequence[str]) -> list[str]:
    """What the figures and marks of the table mean, and what was left out."""
    lines = [f"median of {launches_and_steps(study)}; memory: peak MiB of a rank"]
    if (form := study.alike_settings.get("form", "plain")) != "plain":
        lines.append(f"form of the steps: {form}")
    if "throughput_half_width" in keys:
        unit = throughput_unit(study.latest)
        lines.append(f"± half of the 95% interval of {unit} over launches")
    if any(row.marked for row in rows):
        lines.append("! a figure without the disturbed launches of its case")
    if any(row.result.launches(THROUGHPUT).doubt for row in rows):
        lines.append("[...] all launches, of which too few were undisturbed: no figure of the case")
    if any(row.rank == CLEAR for row in rows):
        lines.append("> clearly the fastest on this number of GPUs: 95% intervals over launches")
    if any(row.rank == AHEAD for row in rows):
        lines.append("~ ahead, not clearly")
    if any(row.crowded for row in rows):
        lines.append("* more ranks than cores or GPUs: says nothing about speed")
    unjudged = unjudged_text([row.result for row in rows])
    return [*lines, *filter(None, [unjudged]), *study.notes]
