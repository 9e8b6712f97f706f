"""`dnnbench compare A B`: what became worse from A to B, without running anything."""

import argparse
import json
from pathlib import Path

from pytest_dnnbench.argument_list import add_list
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.results.baselines.baseline_source import read_baseline
from pytest_dnnbench.results.baselines.limits import parse_limit_list
from pytest_dnnbench.results.baselines.stored_sessions import STORAGE
from pytest_dnnbench.results.records.saved import read_saved
from pytest_dnnbench.results.statistics.false_alarms import FALSE_ALARMS
from pytest_dnnbench.results.verdicts import compare_text
from pytest_dnnbench.results.verdicts.compare import SessionComparison, compare


def main(arguments: list[str]) -> int:
    """Exit status: 0 no case regressed; 1 a case did, or is missing under --require-baseline."""
    options = _parser().parse_args(arguments)
    if not 0 < options.false_alarms < 0.5:
        raise UsageError(f"--false-alarms {options.false_alarms}: it must lie between 0 and 0.5")
    comparison = compare(
        read_baseline(_file(options.baseline)),
        read_saved(_file(options.now)),
        layers=[parse_limit_list(options.limits, "--limits")],
        false_alarms=options.false_alarms,
        across=options.across,
    )
    print(_shown(comparison, options))
    missing = options.require_baseline and comparison.missing
    return 1 if comparison.regressed or missing else 0


def _file(named: str) -> Path:
    """A file by its path, or the stored session of a number, as pytest-benchmark's own commands
    take it. Raises UsageError for a number that is not there, or that several machines have."""
    path = Path(named)
    if path.exists() or not named.isdecimal():
        return path
    stored = sorted(STORAGE.glob(f"*/{int(named):04}_*.json"))
    if len(stored) == 1:
        return stored[0]
    of_machines = ", ".join(map(str, stored)) or f"none is in {STORAGE}"
    raise UsageError(f"{named} is no file, and as a stored session: {of_machines}; name a file")


def _shown(comparison: SessionComparison, options: argparse.Namespace) -> str:
    if options.json:
        return json.dumps(comparison.to_data(), indent=1, allow_nan=False)
    return compare_text.markdown(comparison) if options.markdown else compare_text.plain(comparison)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dnnbench compare",
        description="Compares two saved files, case by case.",
    )
    parser.add_argument(
        "baseline",
        metavar="A",
        help=f"a file that pytest-benchmark saved, or its number in {STORAGE}; or a golden file",
    )
    parser.add_argument("now", metavar="B", help="a saved file, or its number")
    parser.add_argument("--markdown", action="store_true", help="for a pull request")
    parser.add_argument("--json", action="store_true", help="for programs")
    add_list(parser, "--limits", "METRIC=LIMIT,...", "as in throughput=-5%%")
    add_list(
        parser,
        "--across",
        "FACT,...",
        "facts allowed to differ between the two, as in driver,torch",
    )
    parser.add_argument(
        "--require-baseline",
        action="store_true",
        help="fail any case that is missing or incomparable",
    )
    parser.add_argument(
        "--false-alarms",
        type=float,
        default=FALSE_ALARMS,
        metavar="P",
        help="accepted false-alarm rate over all cases (default: %(default)s)",
    )
    return parser
