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

_NARROW = (r"\footnotesize", r"\setlength{\tabcolsep}{4pt}")
"""Fits the usual columns into the text of an article on one column."""

LEFT_OUT = ("verdict", "disturbed")
"""Columns that say how the session went, which a paper's text says."""


MOST_LINES = 48
"""Lines of a table that fit on a page with their caption."""


def latex_table(sections: Sequence[Section], caption: str) -> str:
    """A `table` with a row per case, a heading per group, and the clearly fastest case bold; a
    `longtable` where it takes more than a page. Its first line names the packages that it needs."""
    rows = [row for section in sections for row in section.rows]
    shown = [column for column in columns(rows) if column.key not in LEFT_OUT]
    form = "".join("l" if column.is_text else "r" for column in shown)
    head = [r"\toprule", _line(escaped(column.head) for column in shown)]
    body: list[str] = []
    for section in sections:
        heading = rf"\multicolumn{{{len(shown)}}}{{l}}{{\textit{{{escaped(section.heading)}}}}} \\"
        body += [r"\midrule", heading]
        body += [_line(_cell(row, column) for column in shown) for row in section.rows]
    title = rf"\caption{{{escaped(caption)}}}"
    if len(rows) + len(sections) > MOST_LINES:
        lines = _over_pages(form, title, head, body)
    else:
        lines = _on_a_page(form, title, head, body)
    return "\n".join([*lines, ""])


def _on_a_page(form: str, title: str, head: Sequence[str], body: Sequence[str]) -> list[str]:
    return [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        title,
        *_NARROW,
        rf"\begin{{tabular}}{{{form}}}",
        *head,
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def _over_pages(form: str, title: str, head: Sequence[str], body: Sequence[str]) -> list[str]:
    """The heads stand on every page, the caption on the first."""
    return [
        r"% \usepackage{booktabs,longtable}",
        r"\begingroup",
        *_NARROW,
        rf"\begin{{longtable}}{{{form}}}",
        rf"{title} \\",
        *head,
        r"\endfirsthead",
        *head,
        r"\midrule",
        r"\endhead",
        *body,
        r"\bottomrule",
        r"\end{longtable}",
        r"\endgroup",
    ]


def escaped(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(_ESCAPES.get(letter, letter) for letter in text)


def _cell(row: Row, column: Column) -> str:
    text = escaped(column.text(row))
    return rf"\textbf{{{text}}}" if column.key == THROUGHPUT and row.rank == CLEAR else text


def _line(cells: Iterable[str]) -> str:
    return rf"{' & '.join(cells)} \\"
