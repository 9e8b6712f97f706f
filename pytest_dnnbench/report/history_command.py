"""`dnnbench history`: the changes in the history of stored sessions (history.py)."""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from pytest_dnnbench.argument_list import add_list
from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import DataError, UsageError
from pytest_dnnbench.harmless import lines, say
from pytest_dnnbench.metrics import THROUGHPUT
from pytest_dnnbench.report.history import histories, to_data
from pytest_dnnbench.report.history_text import history_lines
from pytest_dnnbench.report.runs import Run, distinct_runs, read_run
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.results.statistics.change_points import RATE

STORAGE = Path(".benchmarks")
"""Where pytest-benchmark stores sessions."""

LATEST = 200
"""Sessions of a machine that are read: the search takes time with the square of their number."""

_STORED = re.compile(r"\d{4,}_.*\.json")


def main(arguments: list[str]) -> int:
    """Exit status 0, also where something changed. Raises UsageError where no session is stored, or
    none has what is asked for."""
    options = _parser().parse_args(arguments)
    if not 0 < options.false_alarms < 0.5:
        raise UsageError(f"--false-alarms {options.false_alarms}: it must lie between 0 and 0.5")
    runs = _runs(_files(options.paths or [STORAGE], options.last))
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


def _files(paths: Iterable[Path], latest: int) -> list[Path]:
    """Files as they are named, and of a storage the latest sessions of each machine, whose folders
    are in it."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            machines: dict[Path, list[Path]] = {}
            for each in path.rglob("*.json"):
                if _STORED.fullmatch(each.name):
                    machines.setdefault(each.parent, []).append(each)
            if not machines:
                raise UsageError(
                    f"{path} holds no stored session: save some with --benchmark-autosave, or name"
                    " another folder"
                )
            for _, stored in sorted(machines.items()):
                files += sorted(stored, key=_number)[-latest:]
        elif path.exists():
            files.append(path)
        else:
            raise UsageError(
                f"{path} does not exist: name the folder of --benchmark-storage, or saved files"
            )
    return files


def _number(path: Path) -> int:
    return int(path.name.partition("_")[0])


def _runs(files: Sequence[Path]) -> list[Run]:
    """The sessions. A damaged file is named and passed over: the others have a history still."""
    runs = []
    for path in files:
        try:
            run = read_run(path)
        except DataError as error:
            say(f"passed over: {error}", sys.stderr)
            continue
        for note in run.notes:
            say(note, sys.stderr)
        runs.append(run)
    distinct, again = distinct_runs(runs)
    for note in again:
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
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help=f"the folder of --benchmark-storage, or saved files (default: {STORAGE})",
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
    parser.add_argument(
        "--last",
        type=_count,
        default=LATEST,
        metavar="N",
        help="read the latest N sessions of each machine (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)
