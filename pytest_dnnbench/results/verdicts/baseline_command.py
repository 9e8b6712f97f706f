"""`dnnbench baseline`: makes a golden file, accepts a change, shows what is
there."""

import argparse
import getpass
import json
import platform
from datetime import UTC, datetime
from pathlib import Path

from pytest_dnnbench.errors import DataError, UsageError
from pytest_dnnbench.files import replace_file
from pytest_dnnbench.results.baselines.golden import Golden, is_golden, read_golden
from pytest_dnnbench.results.records.json_text import check_json, read_bytes
from pytest_dnnbench.results.records.saved import Acceptance, read_saved


def main(arguments: list[str]) -> int:
    """Exit status 0. Raises DataError for a session that is not fit or a file that is not whole."""
    asked = _parser().parse_args(arguments)
    path = Path(asked.file)
    if asked.action == "show":
        print(_table(read_golden(path)))
    elif asked.action == "update":
        print(_update(path, [Path(run) for run in asked.runs], None))
    else:
        print(_accept(path, [Path(run) for run in asked.runs], acceptance(asked.reason)))
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


def _update(path: Path, runs: list[Path], accepted: Acceptance | None) -> str:
    golden = read_golden(path) if path.exists() else Golden(path)
    anew = [name for run in runs for name in golden.update(read_saved(run), accepted)]
    golden.save()
    restarted = f"; begun anew: {', '.join(anew)}" if anew else ""
    return "\n".join([f"{path}: {len(golden.cases)} cases{restarted}", *golden.passed_over])


def _accept(path: Path, runs: list[Path], accepted: Acceptance) -> str:
    if runs:
        return _update(path, runs, accepted)
    data = check_json(path, read_bytes(path))
    if is_golden(data):
        raise DataError(
            f"{path} is a golden file: name the saved session that it should accept after it"
        )
    read_saved(path)
    data["dnnbench"]["accepted"] = {"who": accepted.who, "when": accepted.when, "why": accepted.why}
    replace_file(path, json.dumps(data, indent=4, allow_nan=False))
    return f"{path}: accepted by {accepted.who}"


def _table(golden: Golden) -> str:
    from pytest_dnnbench.results.verdicts.calibration import summary

    lines = []
    for name, case in sorted(golden.cases.items()):
        lines.append(name)
        for metric, one in sorted(case.metrics.items()):
            if one.noise is not None:
                limit = golden.limits[name].get(metric)
                lines.append(
                    "  " + summary(metric, one.sessions[-1], one.sessions, one.noise, limit)
                )
    for accepted in golden.accepted:
        lines.append(f"accepted {accepted.when} by {accepted.who}: {accepted.why}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dnnbench baseline")
    actions = parser.add_subparsers(dest="action", required=True)
    for name, about, runs in (
        ("update", "take saved sessions into a golden file, which is made if absent", "+"),
        (
            "accept",
            "take a session in although it failed, regressed or differs; or mark a saved file as accepted",
            "*",
        ),
        ("show", "noise, limits and the smallest change that would be found, of each case", ""),
    ):
        action = actions.add_parser(name, help=about, description=about)
        action.add_argument(
            "file", metavar="FILE", help="the golden file (accept: or a saved file alone)"
        )
        if runs:
            action.add_argument(
                "runs", metavar="RUN", nargs=runs, help="files that pytest-benchmark saved"
            )
        if name == "accept":
            action.add_argument(
                "--reason", required=True, help="why the change is right: goes on record"
            )
    return parser
