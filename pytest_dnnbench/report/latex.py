"""The table of a study for a paper: LaTeX, with the rules of the package booktabs."""

from collections.abc import Iterable, Sequence

from pytest_dnnbench.metrics import THROUGHPUT
from pytest_dnnbench.report.rows import CLEAR, Column, Row, Section, columns

_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "\N{EN DASH}": "--", "…": r"\dots{}",
}  # fmt: skip

LEFT_OUT = ("verdict", "disturbed")
"""Columns that say how the session went, which a paper's text says."""


def latex_table(sections: Sequence[Section], caption: str) -> str:
    """A `table` with a row per case, a heading per group, and the clearly fastest case bold. It
    takes \\usepackage{booktabs}."""
    rows = [row for section in sections for row in section.rows]
    shown = [column for column in columns(rows) if column.key not in LEFT_OUT]
    form = "".join("l" if column.is_text else "r" for column in shown)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(caption)}}}",
        rf"\begin{{tabular}}{{{form}}}",
        r"\toprule",
        _line(escaped(column.head) for column in shown),
    ]
    for section in sections:
        heading = rf"\multicolumn{{{len(shown)}}}{{l}}{{\textit{{{escaped(section.heading)}}}}} \\"
        lines += [r"\midrule", heading]
        lines += [_line(_cell(row, column) for column in shown) for row in section.rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def escaped(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(_ESCAPES.get(letter, letter) for letter in text)


def _cell(row: Row, column: Column) -> str:
    text = escaped(column.text(row))
    return rf"\textbf{{{text}}}" if column.key == THROUGHPUT and row.rank == CLEAR else text


def _line(cells: Iterable[str]) -> str:
    return rf"{' & '.join(cells)} \\"
