"""Writes a report: the page, its plots and its tables, into a folder that may hold an older one.

    DIR/index.html   table.md   table.csv   functions.csv   plots/throughput.png ...

File names are ours, never a record's. Each file is replaced whole; the page comes last, so that it
never names a file that is not there.
"""

import re
from pathlib import Path

from pytest_dnnbench.files import replace_file
from pytest_dnnbench.outputs import make_folder, unwritable
from pytest_dnnbench.report import nodes, side_by_side
from pytest_dnnbench.report.canvas import png_and_svgs, require_matplotlib
from pytest_dnnbench.report.captions import caption, table_caption
from pytest_dnnbench.report.functions import csv_rows, function_table
from pytest_dnnbench.report.page import Drawn, page_html
from pytest_dnnbench.report.paste import csv_of, csv_table, markdown_tables
from pytest_dnnbench.report.plots import Plot, plots
from pytest_dnnbench.report.rows import sections
from pytest_dnnbench.report.side_by_side import side_table
from pytest_dnnbench.report.study import Study

PLOTS = "plots"
FUNCTIONS, SIDES, NODES = "functions.csv", "side-by-side.csv", "nodes.csv"
_OURS = re.compile(
    r"(leads|throughput|speedup|memory|steps|breakdown|predictions|history)(\.png|-\d+\.svg)"
)


def check_writable(directory: Path, option: str = "") -> None:
    """Makes the folder, which the option names. Raises UsageError when a report could not be
    written: matplotlib is not installed, or the folder cannot be used."""
    require_matplotlib()
    make_folder(option, directory)
    make_folder(option, directory / PLOTS)


def write_report(study: Study, directory: Path, title: str = "Benchmark report") -> Path:
    """Writes all files and returns the page. Raises UsageError when the folder cannot be written
    to."""
    check_writable(directory)
    try:
        return _write(study, directory, title)
    except OSError as error:
        raise unwritable("", directory, error) from None


def _write(study: Study, directory: Path, title: str) -> Path:
    drawn = [_write_plot(plot, study, directory) for plot in plots(study)] if study.latest else []
    parts = sections(study)
    tables = markdown_tables(
        parts,
        function_table(study),
        side_table(study),
        table_caption(study),
        nodes.nodes_table(study),
    )
    replace_file(directory / "table.md", tables.encode())
    replace_file(directory / "table.csv", csv_table(parts, study).encode())
    for name, rows in (
        (FUNCTIONS, csv_rows(study.functions)),
        (SIDES, side_by_side.csv_rows(study.measured)),
        (NODES, nodes.csv_rows(study.runs)),
    ):
        if rows:
            replace_file(directory / name, csv_of(rows).encode())
        else:
            directory.joinpath(name).unlink(missing_ok=True)
    page = directory / "index.html"
    replace_file(page, page_html(study, parts, drawn, title).encode())
    _remove_others(directory, {name for plot in drawn for name in plot.files})
    return page


def _write_plot(plot: Plot, study: Study, directory: Path) -> Drawn:
    if not plot.panels:
        return Drawn(plot, (), ())
    draws = [panel.draw for panel in plot.panels]
    png, svgs = png_and_svgs(draws, caption(study, plot.key), plot.key, plot.width)
    files = {f"{PLOTS}/{plot.key}.png": png}
    for number, svg in enumerate(svgs, 1):
        files[f"{PLOTS}/{plot.key}-{number}.svg"] = svg.encode()
    for name, content in files.items():
        replace_file(directory / name, content)
    return Drawn(plot, svgs, tuple(files))


def _remove_others(directory: Path, written: set[str]) -> None:
    """Removes plots of an older report that this one does not have; files of other names are not
    ours."""
    for path in directory.joinpath(PLOTS).iterdir():
        if _OURS.fullmatch(path.name) and f"{PLOTS}/{path.name}" not in written:
            path.unlink()
