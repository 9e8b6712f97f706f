"""The terminal's table at the end of a session: a section per model and phase, sized to the
terminal.

What does not fit goes in this order: half of the gaps, the middle of long names, the columns of
least worth (rows.py).
"""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_dnnbench.report.plans import plan_lines
from pytest_dnnbench.report.rows import AHEAD, CLEAR, Column, Row, Section, columns, sections
from pytest_dnnbench.report.runs import run_of
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.report.text import cut_middle, pad, width_of
from pytest_dnnbench.results.records.record import Record

MARKS = {CLEAR: ">", AHEAD: "~", "": " "}

COLOURS = {"regressed": "red", "improved": "green", "noisy": "yellow", "incomparable": "yellow"}
"""Of a verdict's status, by pytest's names."""

NAME_WIDTH, PLAN_WIDTH, VERDICT_WIDTH = 28, 12, 28
"""What a name may take where there is room for all columns; MIN_NAME where there is not."""
MIN_NAME = 8

GAP, LEAST_GAP = 2, 1
"""Blanks between columns."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table and the markup, in pytest's names, that suits it where there are
    colours."""

    text: str
    markup: tuple[str, ...] = ()


def study_of(records: Sequence[Record]) -> Study:
    """The study of one session's records."""
    benchmarks = [
        {"fullname": f"case {number}", "extra_info": {"dnnbench": record}}
        for number, record in enumerate(records)
    ]
    return Study([run_of({"benchmarks": benchmarks}, "this session")])


def render(study: Study, width: int = 80) -> list[Line]:
    """The lines of the table, none longer than `width`."""
    found = sections(study)
    rows = [row for section in found for row in section.rows]
    if not rows:
        return [
            Line(text)
            for long in ("no case was measured", *_unread(study))
            for text in _wrapped(long, width)
        ]
    layout = _Layout(rows, width)
    lines: list[Line] = []
    for section in found:
        lines += [*layout.section(section), Line("")]
    below = [*_notes(study, rows, layout.keys), *plan_lines(study)]
    return lines + [Line(text) for long in below for text in _wrapped(long, width)]


def _wrapped(text: str, width: int) -> list[str]:
    """The text on as many lines as it takes; what cannot be broken is cut."""
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
        self._cells = {id(row): {one.key: one.text(row) for one in self._columns} for row in rows}
        self._widths = {one.key: self._natural(one, rows) for one in self._columns}
        self._fit()

    @property
    def keys(self) -> list[str]:
        """Of the columns that are shown."""
        return [one.key for one in self._columns]

    def section(self, section: Section) -> list[Line]:
        """Heading, column heads and rows."""
        heading = Line(cut_middle(section.group.label, self._width), ("bold",))
        heads = Line(self._line(" ", {one.key: one.brief or one.head for one in self._columns}))
        return [heading, heads, *(self._row(row) for row in section.rows)]

    def _row(self, row: Row) -> Line:
        colour = COLOURS.get(row.status)
        markup = [colour] if colour else []
        if row.rank == CLEAR:
            markup.append("bold")
        return Line(self._line(MARKS[row.rank], self._cells[id(row)]), tuple(markup))

    def _line(self, mark: str, cells: dict[str, str]) -> str:
        shown = []
        for one in self._columns:
            width = self._widths[one.key]
            shown.append(pad(cut_middle(cells[one.key], width), width, left=not one.is_text))
        return cut_middle(f"{mark} {(' ' * self._gap).join(shown)}".rstrip(), self._width)

    def _natural(self, column: Column, rows: Sequence[Row]) -> int:
        longest = max(
            len(column.brief or column.head),
            *(width_of(self._cells[id(row)][column.key]) for row in rows),
        )
        most = {"framework": NAME_WIDTH, "plan": PLAN_WIDTH, "verdict": VERDICT_WIDTH}.get(
            column.key
        )
        return min(longest, most) if most else longest

    def _fit(self) -> None:
        while True:
            for self._gap in (GAP, LEAST_GAP):
                if self._excess() <= 0:
                    return
            droppable = [one for one in self._columns if one.worth is not None]
            if self._shorten(self._excess()) or not droppable:
                return
            self._columns.remove(min(droppable, key=_worth))

    def _excess(self) -> int:
        return (
            2
            + sum(self._widths[one.key] + self._gap for one in self._columns)
            - self._gap
            - self._width
        )

    def _shorten(self, excess: int) -> bool:
        """Takes the excess from the framework's names, where they can spare it."""
        spare = self._widths["framework"] - max(
            MIN_NAME, len("framework"), self._widths["framework"] // 2
        )
        if spare < excess:
            return False
        self._widths["framework"] -= excess
        return True


def _worth(column: Column) -> int:
    return column.worth or 0


def _notes(study: Study, rows: Sequence[Row], keys: Sequence[str]) -> list[str]:
    launches = sorted({len(row.result.step_time_s) for row in rows})
    counted = f"{launches[0]}" if len(launches) == 1 else f"{launches[0]} to {launches[-1]}"
    steps = study.alike_settings.get("steps")
    of_steps = f" of {steps} steps" if steps is not None else ""
    lines = [f"median of {counted} launches{of_steps}; memory: peak MiB of a rank"]
    if "throughput_half_width" in keys:
        lines.append("± half of the 95% interval of img/s over launches")
    about: list[tuple[str, Callable[[Row], bool]]] = [
        (
            "> clearly the fastest on so many GPUs: 95% intervals over launches",
            lambda row: row.rank == CLEAR,
        ),
        ("~ ahead, not clearly", lambda row: row.rank == AHEAD),
        ("* more ranks than cores: says nothing about speed", lambda row: row.crowded),
    ]
    lines += [text for text, shown in about if any(shown(row) for row in rows)]
    if all(row.status == "no-baseline" for row in rows):
        lines.append("no verdict: there is no baseline to compare with")
    return lines + _unread(study)


def _unread(study: Study) -> list[str]:
    return [note for run in study.runs for note in run.notes]
