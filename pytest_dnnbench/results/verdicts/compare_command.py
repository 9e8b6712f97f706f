"""`dnnbench compare A B`: what got worse from A to B, without running anything."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.results.baselines.baseline_source import read_baseline
from pytest_dnnbench.results.baselines.limits import Limit, parse_limit_list
from pytest_dnnbench.results.records.saved import read_saved
from pytest_dnnbench.results.verdicts import compare_text
from pytest_dnnbench.results.verdicts.compare import Comparison, compare


def main(arguments: list[str]) -> int:
    """Exit status: 0 nothing regressed; 1 something did, or is missing under --require-baseline."""
    asked = _parser().parse_args(arguments)
    if not 0 < asked.false_alarms < 0.5:
        raise UsageError(f"--false-alarms {asked.false_alarms}: it must lie between 0 and 0.5")
    limits: list[Mapping[str, Limit]] = [parse_limit_list(_list(asked.limits), "--limits")]
    found = compare(
        read_baseline(Path(asked.baseline)),
        read_saved(Path(asked.now)),
        layers=limits,
        false_alarms=asked.false_alarms,
        across=_list(asked.across),
    )
    print(_shown(found, asked))
    return 1 if found.regressed or (asked.require_baseline and found.missing) else 0


def _shown(found: Comparison, asked: argparse.Namespace) -> str:
    if asked.json:
        return json.dumps(found.to_data(), indent=1, allow_nan=False)

    return compare_text.markdown(found) if asked.markdown else compare_text.plain(found)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dnnbench compare",
        description="Compares two saved files, case by case.",
    )
    parser.add_argument(
        "baseline", metavar="A", help="a file that pytest-benchmark saved, or a golden file"
    )
    parser.add_argument("now", metavar="B", help="a file that pytest-benchmark saved")
    parser.add_argument("--markdown", action="store_true", help="for a pull request")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--limits", default="", metavar="METRIC=LIMIT,...", help="as in throughput=-5%%"
    )
    parser.add_argument(
        "--across", default="", metavar="FACT,...", help="facts that may differ, as in driver,torch"
    )
    parser.add_argument(
        "--require-baseline", action="store_true", help="a missing or incomparable case fails"
    )
    parser.add_argument(
        "--false-alarms",
        type=float,
        default=0.01,
        metavar="P",
        help="rate over all cases (default: %(default)s)",
    )
    return parser


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
