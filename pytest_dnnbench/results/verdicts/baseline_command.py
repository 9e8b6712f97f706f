"""`dnnbench baseline`: makes a golden file, accepts a change, shows what a golden file holds."""

import argparse
import getpass
import json
import platform
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
from pytest_dnnbench.results.records.json_text import any_json, read_bytes
from pytest_dnnbench.results.records.saved import read_saved
from pytest_dnnbench.results.records.schema import Acceptance
from pytest_dnnbench.results.verdicts.calibration import noise_summary


def main(arguments: list[str]) -> int:
    """Exit status 0. Raises DataError for a session that is not fit or a file that is damaged."""
    options = _parser().parse_args(arguments)
    path = Path(options.file)
    if options.action == "show":
        print(lines(_shown(read_golden(path))))
    elif options.action == "update":
        print(lines(_update(path, [Path(run) for run in options.runs], None)))
    else:
        runs = [Path(run) for run in options.runs]
        print(lines(_accept(path, runs, acceptance(options.reason))))
    return 0


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


def _update(path: Path, runs: list[Path], accepted: Acceptance | None) -> list[str]:
    check_file("the golden file", path)
    golden = read_golden(path) if path.exists() else Golden(path)
    anew = [name for run in runs for name in update_golden(golden, read_saved(run), accepted)]
    write_golden(golden)
    restarted = f"; begun anew: {', '.join(anew)}" if anew else ""
    return [f"{path}: {counted(len(golden.cases), 'case')}{restarted}", *golden.passed_over]


def _accept(path: Path, runs: list[Path], accepted: Acceptance) -> list[str]:
    if runs:
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
    for name, about, runs in (
        ("update", "add saved sessions to a golden file, which is made if absent", "+"),
        (
            "accept",
            "add a session although it failed, regressed or differs; or mark a saved file as"
            " accepted",
            "*",
        ),
        ("show", "noise, limits and the smallest detectable change of each case", ""),
    ):
        action = actions.add_parser(name, help=about, description=about)
        also = ", or a saved file alone" if name == "accept" else ""
        action.add_argument("file", metavar="FILE", help=f"the golden file{also}")
        if runs:
            action.add_argument(
                "runs", metavar="RUN", nargs=runs, help="files that pytest-benchmark saved"
            )
        if name == "accept":
            action.add_argument(
                "--reason", required=True, help="why the change is right: kept in the file"
            )
    return parser
