"""`dnnbench report`: makes a report of one or several saved runs.

What lives here: arguments. Not here: reading (runs.py), drawing (plots.py), writing (write.py).
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pytest_dnnbench.argument_list import add_list
from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.files import replace_file
from pytest_dnnbench.harmless import say
from pytest_dnnbench.metrics import THROUGHPUT
from pytest_dnnbench.outputs import check_file
from pytest_dnnbench.report.canvas import (
    PRINT_DOTS_PER_INCH,
    Draw,
    pdf_sheet,
    png_sheet,
    svg_sheet,
)
from pytest_dnnbench.report.captions import caption, table_caption
from pytest_dnnbench.report.latex import latex_table
from pytest_dnnbench.report.plots import plots
from pytest_dnnbench.report.rows import sections
from pytest_dnnbench.report.runs import Run, distinct_runs, read_runs
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.results.baselines.session_files import add_last, add_paths, session_files


def main(arguments: list[str]) -> int:
    """Exit status 0. Raises DataError for a file that is no saved run, UsageError for a folder that
    cannot be used."""
    options = _parser().parse_args(arguments)
    # The page's template engine is imported for a report, not for --help.
    from pytest_dnnbench.report.write import check_writable, write_report

    check_writable(options.output, "-o")
    if options.picture:
        _check_picture(options.picture)
        check_file("--picture", options.picture)
    if options.latex:
        check_file("--latex", options.latex)
    files = session_files(options.paths, options.last)
    read, damaged = read_runs(files, named=options.paths)
    runs, again = distinct_runs(read)
    for note in (*damaged, *again):
        say(note, sys.stderr)
    if options.models:
        models = {*options.models}
        runs = [_only(run, models) for run in runs]
        if not any(run.results or run.functions for run in runs):
            raise UsageError(
                f"--models {','.join(options.models)}: no file holds a case of these models"
            )
    study = Study(runs)
    page = write_report(study, options.output, options.title)
    sessions = counted(len(runs), "session")
    print(f"{counted(len(study.measured), 'case')} of {sessions}: {page}")
    if options.latex:
        _write(
            options.latex, "--latex", latex_table(sections(study), table_caption(study)).encode()
        )
        print(f"LaTeX table: {options.latex}")
    # Last: without a throughput there is no picture, and all else should be there.
    if options.picture:
        _write_picture(study, options.picture)
    return 0


def _write_picture(study: Study, path: Path) -> None:
    throughput = next(plot for plot in plots(study) if plot.key == THROUGHPUT)
    draws = [panel.draw for panel in throughput.panels]
    if not draws:
        raise UsageError(f"--picture {path}: {throughput.note}")
    _write(path, "--picture", _FORMATS[path.suffix.lower()](draws, caption(study)))
    print(f"{throughput.title}: {path}")


def _write(path: Path, option: str, content: bytes) -> None:
    try:
        replace_file(path, content)
    except OSError as error:
        raise UsageError(f"{option} {path} cannot be written ({error.strerror})") from None


def _svg(draws: Sequence[Draw], text: str) -> bytes:
    return svg_sheet(draws, text, "picture").encode()


def _png(draws: Sequence[Draw], text: str) -> bytes:
    return png_sheet(draws, text, dots_per_inch=PRINT_DOTS_PER_INCH)


_FORMATS: dict[str, Callable[[Sequence[Draw], str], bytes]] = {
    ".pdf": pdf_sheet,
    ".png": _png,
    ".svg": _svg,
}


def _check_picture(path: Path) -> None:
    """Raises UsageError for a picture of another format, before anything is drawn."""
    if path.suffix.lower() not in _FORMATS:
        raise UsageError(
            f"--picture {path}: {path.suffix or 'no ending'!r} is no format of a picture: choose"
            f" from {', '.join(_FORMATS)}"
        )


def _only(run: Run, models: set[str]) -> Run:
    return replace(
        run,
        results=tuple(result for result in run.results if result.case.model in models),
        functions=(),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dnnbench report",
        description="Make one page, plots and tables of saved sessions. Several sessions of one"
        " case make its history.",
    )
    add_paths(parser)
    add_last(parser)
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="DIR", help="folder of the report"
    )
    add_list(parser, "--models", "A,B", "report these models only")
    parser.add_argument(
        "--title", default="Benchmark report", help="title of the page (default: %(default)s)"
    )
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="FILE",
        help="also write the plot of throughput alone, as .pdf, .svg, or .png of 300 dpi",
    )
    parser.add_argument(
        "--latex",
        type=Path,
        metavar="FILE",
        help="also write the table for a paper, as LaTeX with booktabs",
    )
    return parser
