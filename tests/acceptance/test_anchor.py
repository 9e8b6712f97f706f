"""`--dnn-anchor`: a case that crept away from where it was fails, beside latest sessions that crept
with it. Launches are made up (tests/fake_launches.py)."""

import json
from typing import Any

import pytest

from tests.acceptance.test_verdicts import run, saved

__all__ = ["run"]

CREEP, SESSIONS = 0.99, 9


@pytest.fixture
def crept(run: Any, pytester: pytest.Pytester) -> Any:
    """After nine sessions, each a hundredth slower than the one before."""
    run("--benchmark-save=night").assert_outcomes(passed=3, deselected=3)
    content = saved(pytester, 1)
    [first] = (pytester.path / "saved").rglob("0001_*.json")
    for number in range(2, SESSIONS + 1):
        for case in content["benchmarks"]:
            metrics = case["extra_info"]["dnnbench"]["metrics"]
            for name, factor in (("throughput", CREEP), ("step_time_s", 1 / CREEP)):
                entry = metrics[name]
                entry["per_launch"] = [value * factor for value in entry["per_launch"]]
                entry["value"] *= factor
        (first.parent / f"{number:04}_night.json").write_text(json.dumps(content))
    return run


def test_the_anchor_is_left_although_the_latest_sessions_are_near(crept: Any) -> None:
    now = {"FAKE_LEVELS": dict.fromkeys(("single", "ddp"), 100 * CREEP**SESSIONS)}
    result = crept("--dnn-baseline=latest", "--dnn-anchor=first", **now)
    result.assert_outcomes(failed=3, deselected=3)
    result.stdout.fnmatch_lines(
        ["*compared with the anchor first (0001_night.json) (5 sessions), not with the latest ones"]
    )


def test_cases_that_cannot_be_compared_with_the_anchor_are_named(
    crept: Any, pytester: pytest.Pytester
) -> None:
    """They passed without a word, as if they were still where the anchor is."""
    [file] = (pytester.path / "saved").rglob("0001_*.json")
    content = json.loads(file.read_text())
    for case in content["benchmarks"]:
        case["extra_info"]["dnnbench"]["environment"]["must_match"]["torch"] = "1.0"
    file.write_text(json.dumps(content))
    now = {"FAKE_LEVELS": dict.fromkeys(("single", "ddp"), 100 * CREEP**5)}
    result = crept("--dnn-baseline=latest", "--dnn-anchor=1", **now)
    result.assert_outcomes(passed=3, deselected=3)
    result.stdout.fnmatch_lines(
        ["NOT COMPARED WITH THE ANCHOR: *single*: 0001_night.json: *torch: 1.0 -> *"]
    )


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--dnn-anchor=first"], "*--dnn-anchor has no effect without --dnn-baseline*"),
        (["--dnn-anchor=latest", "--dnn-baseline=latest"], "*latest moves with every session*"),
        (["--dnn-anchor=first", "--dnn-baseline=latest"], "*holds no saved session*"),
        (
            ["--dnn-anchor=a.json", "--benchmark-json=a.json", "--dnn-baseline=latest"],
            "*--benchmark-json a.json would overwrite --dnn-anchor in place*",
        ),
    ],
)
def test_an_anchor_that_cannot_be_is_one_line(run: Any, options: list[str], why: str) -> None:
    result = run(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([why])
