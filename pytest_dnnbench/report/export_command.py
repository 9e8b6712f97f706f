"""`dnnbench export`: writes saved sessions for services that keep histories (exports.py)."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from pytest_dnnbench.argument_list import add_list
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.files import replace_file
from pytest_dnnbench.harmless import say
from pytest_dnnbench.outputs import make_folder, unwritable
from pytest_dnnbench.report.exports import FORMATS, points
from pytest_dnnbench.report.runs import Run, read_runs
from pytest_dnnbench.results.baselines.session_files import add_last, add_paths, session_files


def main(arguments: list[str]) -> int:
    """Exit status 0. Raises DataError for a file that is no saved session, UsageError where nothing
    can be exported or a file cannot be written."""
    options = _parser().parse_args(arguments)
    make_folder("-o", options.output)
    metrics = tuple(options.metrics)
    files = session_files(options.paths, options.last)
    read, damaged = read_runs(files, named=options.paths)
    runs = [_numbered(run, number) for number, run in enumerate(read)]
    exported, absent = points(runs, metrics)
    for line in (*damaged, *(note for run in runs for note in run.notes), *absent):
        say(line, sys.stderr)
    if not exported:
        measured = {
            name
            for run in runs
            for result in (*run.results, *run.functions)
            for name in result.record.metrics
        }
        raise UsageError(
            f"nothing to export: no case has a figure of {', '.join(metrics) or 'any metric'};"
            f" measured were {', '.join(sorted(measured)) or 'none'}"
        )
    for name, content in FORMATS[options.to](exported, runs).items():
        say(_written(options.output, name, content))
    return 0


def _numbered(run: Run, number: int) -> Run:
    return replace(
        run,
        results=tuple(replace(result, run=number) for result in run.results),
        functions=tuple(replace(result, run=number) for result in run.functions),
    )


def _written(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    try:
        replace_file(path, content)
    except OSError as error:
        raise unwritable("-o", folder, error) from None
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dnnbench export",
        description="Write saved sessions in the format of a service that keeps histories.",
    )
    add_paths(parser)
    add_last(parser)
    parser.add_argument(
        "--to", required=True, choices=[*FORMATS], help="the format: see docs/ci.md for each"
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="DIR", help="folder of the files"
    )
    add_list(
        parser,
        "--metrics",
        "A,B",
        "export these metrics only, as in throughput,step_time_s (default: all)",
    )
    return parser
