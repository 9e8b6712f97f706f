"""`dnnbench report`: makes a report of one or several saved runs.

What lives here: arguments. Not here: reading (runs.py), drawing (plots.py), writing (write.py).
"""

import argparse
from dataclasses import replace
from pathlib import Path

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.report.runs import Run, read_run
from pytest_dnnbench.report.study import Study


def main(arguments: list[str]) -> int:
    """Exit status 0. Raises DataError for a file that is no saved run, UsageError for a folder that
    cannot be used."""
    asked = _parser().parse_args(arguments)
    runs = [read_run(path) for path in asked.files]
    if asked.models:
        runs = [_only(run, {name.strip() for name in asked.models.split(",")}) for run in runs]
        if not any(run.results for run in runs):
            raise UsageError(f"--models {asked.models}: no file holds a case of these models")
    study = Study(runs)
    from pytest_dnnbench.report.write import write_report

    page = write_report(study, asked.output, asked.title)
    print(f"{len(study.latest)} cases of {len(runs)} sessions: {page}")
    if asked.picture:
        _write_picture(study, asked.picture)
    return 0


def _write_picture(study: Study, path: Path) -> None:
    from pytest_dnnbench.report import plots, words
    from pytest_dnnbench.report.canvas import png_sheet, svg_sheet
    from pytest_dnnbench.report.write import replace_file

    plot = plots.plots(study)[0]
    panels = [panel.draw for panel in plot.panels]
    if not panels:
        raise UsageError(f"--picture {path}: {plot.note}")
    caption = words.caption(study)
    try:
        if path.suffix == ".svg":
            replace_file(path, svg_sheet(panels, caption, "picture").encode())
        else:
            replace_file(path, png_sheet(panels, caption))
    except OSError as error:
        raise UsageError(f"--picture {path} cannot be written ({error.strerror})") from None
    print(f"{plot.title}: {path}")


def _only(run: Run, models: set[str]) -> Run:
    return replace(run, results=tuple(result for result in run.results if result.model in models))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dnnbench report",
        description="Makes one page, plots and tables of saved runs. Several sessions of one case make its history.",
    )
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="written by --benchmark-json or -autosave",
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="DIR", help="folder of the report"
    )
    parser.add_argument("--models", metavar="A,B", help="only these models")
    parser.add_argument(
        "--title", default="Benchmark report", help="of the page (default: %(default)s)"
    )
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="also throughput alone, as .svg or .png"
    )
    return parser
