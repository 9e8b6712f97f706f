"""The table of a study as Markdown, for people to paste, and as CSV, for programs."""

import csv
import html
import io
import re
from collections.abc import Iterable, Sequence

from pytest_dnnbench.report.rows import CLEAR, COLUMNS, Row, Section, columns
from pytest_dnnbench.report.study import Study

# What Markdown would take for markup within a line; a bar would end the cell.
_MARKUP = re.compile(r"([\\`*_\[\]|~$])")

# What a spreadsheet would run as a formula at the start of a cell.
_FORMULA = ("=", "+", "-", "@")


def markdown(found: Sequence[Section], caption: str) -> str:
    """A table per group; the clearly fastest case of each number of GPUs is bold."""
    shown = columns(row for section in found for row in section.rows)
    lines = []
    for section in found:
        lines += [f"### {_escaped(section.group.label)}", ""]
        lines += [_line(_escaped(column.head) for column in shown)]
        lines += [_line("---" if column.is_text else "---:" for column in shown)]
        lines += [
            _line(_cell(row, column.text(row), column.key) for column in shown)
            for row in section.rows
        ]
        lines += [""]
    lines += [_escaped(caption)] if found else ["No case was measured."]
    return "\n".join(lines) + "\n"


def table(found: Sequence[Section], study: Study) -> str:
    """CSV: a row per case, raw values in the units that the heads' names tell, empty where there is
    none."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["model", "phase", "setting", *(column.key for column in COLUMNS), "test", "session"]
    )
    for section in found:
        group = section.group
        for row in section.rows:
            values = [column.value(row) for column in COLUMNS]
            saved = study.runs[row.result.run].saved
            writer.writerow(
                _harmless(one)
                for one in (
                    group.model,
                    group.phase,
                    group.setting,
                    *values,
                    row.result.name,
                    saved,
                )
            )
    return stream.getvalue()


def _cell(row: Row, text: str, key: str) -> str:
    shown = _escaped(text)
    return f"**{shown}**" if key == "throughput" and row.rank == CLEAR else shown


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    return _MARKUP.sub(r"\\\1", html.escape(text, quote=False))


def _harmless(value: object) -> object:
    """Text that a spreadsheet does not run."""
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
