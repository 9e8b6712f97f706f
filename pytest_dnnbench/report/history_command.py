"""`dnnbench history`: the changes in the history of stored sessions (history.py)."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_dnnbench.argument_list import add_list
from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.harmless import lines, say
from pytest_dnnbench.metrics import THROUGHPUT
from pytest_dnnbench.report.history import histories, to_data
from pytest_dnnbench.report.history_text import history_lines
from pytest_dnnbench.report.runs import Run, distinct_runs, read_runs
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.results.baselines.session_files import (
    add_last,
    add_paths,
    left_out,
    session_files,
)
from pytest_dnnbench.results.baselines.stored_sessions import STORAGE
from pytest_dnnbench.results.statistics.change_points import LEAST_RATE, RATE

LATEST = 200
"""Sessions of a machine that are read: the search takes time with the square of their number."""


def main(arguments: list[str]) -> int:
    """Exit status 0, also where something changed. Raises UsageError where no session is stored, or
    none has what is asked for."""
    options = _parser().parse_args(arguments)
    if not LEAST_RATE <= options.false_alarms < 0.5:
        raise UsageError(
            f"--false-alarms {options.false_alarms}: give at least {LEAST_RATE:g}, and below 0.5"
        )
    paths = options.paths or [STORAGE]
    files = session_files(paths, options.last or LATEST)
    if options.last is None and (note := left_out(paths, files)):
        say(note, sys.stderr)
    runs = _runs(files)
    study = Study(runs)
    metrics = options.metric or [THROUGHPUT]
    shown = histories(
        study,
        metrics,
        case=options.case,
        across=options.across,
        rate=options.false_alarms,
    )
    if not shown:
        raise UsageError(_nothing(study, metrics, options.case))
    if options.json:
        print(json.dumps(to_data(study.runs, shown, options.false_alarms), allow_nan=False))
    else:
        print(lines(history_lines(study.runs, shown, options.false_alarms)))
    return 0


def _runs(files: Sequence[Path]) -> list[Run]:
    """The sessions. A damaged file is named and passed over: the others have a history still."""
    runs, damaged = read_runs(files)
    distinct, again = distinct_runs(runs)
    for note in (*damaged, *(note for run in runs for note in run.notes), *again):
        say(note, sys.stderr)
    return distinct


def _nothing(study: Study, metrics: Sequence[str], case: str) -> str:
    if not study.measured:
        return "no session that can be read holds a case"
    measured = sorted({name for result in study.measured for name in result.record.metrics})
    return (
        f"no case whose name holds {case!r} has {', '.join(metrics)}: measured were"
        f" {', '.join(measured)}, of {counted(len(study.measured), 'case')}, as"
        f" {study.measured[0].name}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dnnbench history",
        description="Name the sessions from which on a case was faster or slower.",
    )
    add_paths(
        parser,
        nargs="*",
        about=f"the folder of --benchmark-storage, or saved files (default: {STORAGE})",
    )
    parser.add_argument("--case", default="", metavar="TEXT", help="cases whose name holds it")
    add_list(
        parser,
        "--metric",
        "A,B",
        f"metrics, as in throughput,allocated_peak_bytes (default: {THROUGHPUT})",
    )
    add_list(
        parser,
        "--across",
        "FACT,...",
        "facts in which sessions of one history may differ, as in torch,driver",
    )
    parser.add_argument(
        "--false-alarms",
        type=float,
        default=RATE,
        metavar="P",
        help="share of the histories without a change in which one is named (default: %(default)s)",
    )
    add_last(parser, usual=str(LATEST))
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser
