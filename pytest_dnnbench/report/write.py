"""Writes a report: the page, its plots and its tables, into a folder that may hold an older one.

    DIR/index.html   table.md   table.csv   plots/throughput.png   plots/throughput-1.svg ...

File names are ours, never a record's. Each file is replaced whole; the page comes last, so that it
never names a file that is not there.
"""

import re
import tempfile
from pathlib import Path

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.files import replace_file
from pytest_dnnbench.report import words
from pytest_dnnbench.report.canvas import png_sheet, require_matplotlib, svg_panel
from pytest_dnnbench.report.page import Drawn, render
from pytest_dnnbench.report.paste import markdown, table
from pytest_dnnbench.report.plots import Plot, plots
from pytest_dnnbench.report.rows import sections
from pytest_dnnbench.report.study import Study

PLOTS = "plots"
_OURS = re.compile(r"(throughput|speedup|memory|steps|history)(\.png|-\d+\.svg)")


def check_writable(directory: Path) -> None:
    """Makes the folder. Raises UsageError when a report could not be written: no matplotlib, or no
    such folder."""
    require_matplotlib()
    try:
        directory.joinpath(PLOTS).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise _unwritable(directory, error) from None


def write_report(study: Study, directory: Path, title: str = "Benchmark report") -> Path:
    """Writes all files and returns the page. Raises UsageError when the folder cannot be written
    to."""
    check_writable(directory)
    caption, found = words.caption(study), sections(study)
    try:
        drawn = (
            [_write_plot(plot, words.caption(study, plot.key), directory) for plot in plots(study)]
            if study.latest
            else []
        )
        replace_file(directory / "table.md", markdown(found, caption).encode())
        replace_file(directory / "table.csv", table(found, study).encode())
        page = directory / "index.html"
        replace_file(page, render(study, found, drawn, title).encode())
        _remove_others(directory, {name for one in drawn for name in one.files})
    except OSError as error:
        raise _unwritable(directory, error) from None
    return page


def _write_plot(plot: Plot, caption: str, directory: Path) -> Drawn:
    if not plot.panels:
        return Drawn(plot, (), ())
    svgs = tuple(
        svg_panel(panel.draw, f"{plot.key}-{number}", panel.title)
        for number, panel in enumerate(plot.panels, 1)
    )
    files = [
        f"{PLOTS}/{plot.key}.png",
        *(f"{PLOTS}/{plot.key}-{number}.svg" for number in range(1, len(svgs) + 1)),
    ]
    contents = [
        png_sheet([panel.draw for panel in plot.panels], caption),
        *(svg.encode() for svg in svgs),
    ]
    for name, content in zip(files, contents, strict=True):
        replace_file(directory / name, content)
    return Drawn(plot, svgs, tuple(files))


def _remove_others(directory: Path, written: set[str]) -> None:
    """Plots of an older report that this one does not have; files of other names are not ours."""
    for path in directory.joinpath(PLOTS).iterdir():
        if _OURS.fullmatch(path.name) and f"{PLOTS}/{path.name}" not in written:
            path.unlink()


def _unwritable(directory: Path, error: OSError) -> UsageError:
    return UsageError(
        f"{directory} cannot be written to ({error.strerror}): give another folder for the report"
    )
