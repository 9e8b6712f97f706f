"""`dnnbench report`: makes a report of one or several saved runs.

What lives here: arguments. Not here: reading (runs.py), drawing (plots.py), writing (write.py).
"""

import argparse
from dataclasses import replace
from pathlib import Path

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.files import replace_file
from pytest_dnnbench.report.canvas import png_sheet, svg_sheet
from pytest_dnnbench.report.captions import caption
from pytest_dnnbench.report.plots import plots
from pytest_dnnbench.report.runs import Run, read_run
from pytest_dnnbench.report.study import Study


def main(arguments: list[str]) -> int:
    """Exit status 0. Raises DataError for a file that is no saved run, UsageError for a folder that
    cannot be used."""
    options = _parser().parse_args(arguments)
    runs = [read_run(path) for path in options.files]
    if options.models:
        models = {name.strip() for name in options.models.split(",")}
        runs = [_only(run, models) for run in runs]
        if not any(run.results for run in runs):
            raise UsageError(f"--models {options.models}: no file holds a case of these models")
    study = Study(runs)
    # The page's template engine is imported for a report, not for --help.
    from pytest_dnnbench.report.write import write_report

    page = write_report(study, options.output, options.title)
    print(f"{len(study.latest)} cases of {len(runs)} sessions: {page}")
    if options.picture:
        _write_picture(study, options.picture)
    return 0


def _write_picture(study: Study, path: Path) -> None:
    throughput = plots(study)[0]
    draws = [panel.draw for panel in throughput.panels]
    if not draws:
        raise UsageError(f"--picture {path}: {throughput.note}")
    try:
        if path.suffix == ".svg":
            replace_file(path, svg_sheet(draws, caption(study), "picture").encode())
        else:
            replace_file(path, png_sheet(draws, caption(study)))
    except OSError as error:
        raise UsageError(f"--picture {path} cannot be written ({error.strerror})") from None
    print(f"{throughput.title}: {path}")


def _only(run: Run, models: set[str]) -> Run:
    return replace(
        run, results=tuple(result for result in run.results if result.case.model in models)
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dnnbench report",
        description="Make one page, plots and tables of saved sessions. Several sessions of one"
        " case make its history.",
    )
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="a file that --benchmark-json or --benchmark-autosave wrote",
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="DIR", help="folder of the report"
    )
    parser.add_argument("--models", metavar="A,B", help="report these models only")
    parser.add_argument(
        "--title", default="Benchmark report", help="title of the page (default: %(default)s)"
    )
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="FILE",
        help="also write the plot of throughput alone, as .svg or .png",
    )
    return parser
