"""The table of a study as Markdown, for people to paste, and as CSV, for programs."""

import csv
import io
from collections.abc import Iterable, Sequence

from pytest_dnnbench.harmless import markdown_text
from pytest_dnnbench.metrics import THROUGHPUT
from pytest_dnnbench.report.rows import CLEAR, COLUMNS, Column, Row, Section, columns
from pytest_dnnbench.report.study import Study

# What a spreadsheet would run as a formula at the start of a cell.
_FORMULA = ("=", "+", "-", "@")


def markdown(sections: Sequence[Section], caption: str) -> str:
    """A table per group; the clearly fastest case of each number of GPUs is bold."""
    shown = columns([row for section in sections for row in section.rows])
    lines = [line for section in sections for line in _table_lines(section, shown)]
    lines.append(markdown_text(caption) if sections else "No case was measured.")
    return "\n".join(lines) + "\n"


def csv_table(sections: Sequence[Section], study: Study) -> str:
    """A row per case, with raw values. A head tells the unit of its metric; the column
    `throughput_unit` that of the throughput. Empty where a record has no value."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    keys = [column.key for column in COLUMNS]
    writer.writerow(["model", "phase", "setting", *keys, "throughput_unit", "test", "session"])
    for section in sections:
        group = section.group
        for row in section.rows:
            cells = [
                group.model,
                group.phase,
                group.setting,
                *(column.value(row) for column in COLUMNS),
                row.result.throughput_unit,
                row.result.name,
                study.runs[row.result.run].saved,
            ]
            writer.writerow(map(_harmless, cells))
    return stream.getvalue()


def _table_lines(section: Section, shown: Sequence[Column]) -> list[str]:
    return [
        f"### {markdown_text(section.heading)}",
        "",
        _line(markdown_text(column.head) for column in shown),
        _line("---" if column.is_text else "---:" for column in shown),
        *(_line(_cell(row, column) for column in shown) for row in section.rows),
        "",
    ]


def _cell(row: Row, column: Column) -> str:
    text = markdown_text(column.text(row))
    return f"**{text}**" if column.key == THROUGHPUT and row.rank == CLEAR else text


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _harmless(value: object) -> object:
    """Text that a spreadsheet does not run."""
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
