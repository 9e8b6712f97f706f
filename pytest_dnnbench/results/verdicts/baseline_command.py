"""`dnnbench baseline`: makes a golden file, accepts a change, shows what a golden file holds."""

import argparse
import getpass
import json
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import DataError, UsageError
from pytest_dnnbench.files import replace_file
from pytest_dnnbench.harmless import lines
from pytest_dnnbench.outputs import check_file
from pytest_dnnbench.results.baselines.golden import Golden
from pytest_dnnbench.results.baselines.golden_file import is_golden, read_golden, write_golden
from pytest_dnnbench.results.baselines.golden_update import update_golden
from pytest_dnnbench.results.baselines.session_files import add_last, add_paths, session_files
from pytest_dnnbench.results.records.json_text import any_json, read_bytes
from pytest_dnnbench.results.records.saved import read_saved
from pytest_dnnbench.results.records.schema import Acceptance
from pytest_dnnbench.results.verdicts.calibration import noise_summary

LATEST = 1
"""Stored sessions of each machine that a folder stands for, unless the user says otherwise."""


def main(arguments: list[str]) -> int:
    """Exit status 0. Raises DataError for a session that is not fit or a file that is damaged."""
    options = _parser().parse_args(arguments)
    path = Path(options.file)
    if options.action == "show":
        print(lines(_shown(read_golden(path))))
    elif options.action == "update":
        check_file("the golden file", path)
        folders = [path for path in options.paths if path.is_dir()]
        print(lines(_update(path, _files(options.paths, options.last), None, folders)))
    else:
        print(lines(_accept(path, options.runs, acceptance(options.reason))))
    return 0


def _files(paths: Sequence[Path], last: int | None) -> list[Path]:
    """The saved files, each once: of a folder the latest ones, and every one that is named, unless
    the user says how many."""
    if last is not None:
        return session_files(paths, last)
    each = (session_files([path], LATEST if path.is_dir() else None) for path in paths)
    return [*dict.fromkeys(file for files in each for file in files)]


def acceptance(reason: str) -> Acceptance:
    """That this user accepts now. Raises UsageError without a reason."""
    if not reason.strip():
        raise UsageError("to accept takes a reason: write why the change is right")
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return Acceptance(
        f"{user}@{platform.node()}", datetime.now(UTC).isoformat(timespec="seconds"), reason.strip()
    )


def _update(
    path: Path, files: Sequence[Path], accepted: Acceptance | None, folders: Sequence[Path] = ()
) -> list[str]:
    """Adds sessions to a golden file. Of the folders only those that are newer than what it holds:
    the same command is run again after each session."""
    golden = read_golden(path) if path.exists() else Golden(path)
    newest = max((case.updated for case in golden.cases.values()), default="")
    anew, held = list[str](), 0
    for file in files:
        run = read_saved(file)
        if run.saved <= newest and any(folder in file.parents for folder in folders):
            held += 1
            continue
        anew += update_golden(golden, run, accepted)
    if held < len(files):
        write_golden(golden)
    restarted = f"; begun anew: {', '.join(anew)}" if anew else ""
    older = f"; {counted(held, 'session')} no newer than it left out" if held else ""
    cases = counted(len(golden.cases), "case")
    return [f"{path}: {cases}{restarted}{older}", *golden.passed_over]


def _accept(path: Path, runs: list[Path], accepted: Acceptance) -> list[str]:
    if runs:
        check_file("the golden file", path)
        return _update(path, runs, accepted)
    content = read_bytes(path)
    if is_golden(content):
        raise DataError(
            f"{path} is a golden file: name after it the saved session that it should accept"
        )
    read_saved(path)
    # All of it, and not only our types: the rest must survive, other people's NaN too.
    file = any_json(path, content, errors="surrogateescape")
    file["dnnbench"]["accepted"] = msgspec.to_builtins(accepted)
    text = json.dumps(file, indent=4, ensure_ascii=False)
    replace_file(path, text.encode("utf-8", "surrogateescape"))
    return [f"{path}: accepted by {accepted.who}"]


def _shown(golden: Golden) -> list[str]:
    shown = []
    for name, case in sorted(golden.cases.items()):
        shown.append(name)
        for metric, stored in sorted(case.metrics.items()):
            if stored.noise is not None:
                newest, limit = stored.sessions[-1], case.limits.get(metric)
                shown.append(
                    f"  {noise_summary(metric, newest, stored.sessions, stored.noise, limit)}"
                )
    for accepted in golden.accepted:
        shown.append(f"accepted {accepted.when} by {accepted.who}: {accepted.why}")
    return shown


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dnnbench baseline")
    actions = parser.add_subparsers(dest="action", required=True)
    for name, about in (
        ("update", "add saved sessions to a golden file, which is made if absent"),
        (
            "accept",
            "add a session although it failed, regressed or differs; or mark a saved file as"
            " accepted",
        ),
        ("show", "noise, limits and the smallest detectable change of each case"),
    ):
        action = actions.add_parser(name, help=about, description=about)
        also = ", or a saved file alone" if name == "accept" else ""
        action.add_argument("file", metavar="FILE", help=f"the golden file{also}")
        if name == "update":
            add_paths(action)
            add_last(action, f"{LATEST}")
        if name == "accept":
            action.add_argument(
                "runs",
                metavar="RUN",
                nargs="*",
                type=Path,
                help="files that pytest-benchmark saved",
            )
        if name == "accept":
            action.add_argument(
                "--reason", required=True, help="why the change is right: kept in the file"
            )
    return parser
