"""`dnnbench history`: the changes of stored sessions, and what was other since."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_dnnbench.__main__ import main
from pytest_dnnbench.case import Case
from pytest_dnnbench.report.plots import plots
from pytest_dnnbench.report.runs import run_of
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.results.records.schema import Environment
from tests.report import records

CASE = "cases.py::test_train[ddp-tiny-2gpu]"
STEP = 18
"""The first session that is slower."""


def session(day: int, level: float, rng: np.random.Generator, **facts: Any) -> dict[str, Any]:
    """A session of one case: throughput at a level, the yardstick, and allocated bytes."""
    noise = np.exp(rng.normal(0, 0.005, 3))
    record = records.record(
        Case("ddp", "tiny", 2, "train"),
        {
            "throughput": (100 * level * noise).tolist(),
            "yardstick_s": (0.002 * noise).tolist(),
            "allocated_peak_bytes": [2e9] * 3,
        },
    )
    record.environment = Environment(
        must_match=dict(record.environment.must_match),
        recorded=dict(record.environment.recorded) | facts,
    )
    content = records.saved(records.as_saved(record, CASE), day=day)
    return content | {"commit_info": {"id": f"{day:02}abcdef"}}


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """28 sessions; from the one of day STEP on the case is 5% slower, and the driver another."""
    rng = np.random.default_rng(2)
    folder = tmp_path / "saved" / "Linux-CPython"
    folder.mkdir(parents=True)
    for day in range(1, 29):
        slow = day >= STEP
        content = session(day, 0.95 if slow else 1.0, rng, driver="570" if slow else "565")
        (folder / f"{day:04}_night.json").write_text(json.dumps(content))
    return folder.parent


def test_the_session_of_the_change_is_named_with_its_size_and_what_was_other(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["history", str(storage)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("28 sessions, 1 history: 1 with changes")
    (change,) = [line for line in lines if line.startswith("  from ")]
    assert change.startswith(f"  from {STEP:04}_night.json (2026-03-{STEP}) on: -")
    assert change.endswith(", worse; 0.1% by chance")
    assert any("since then other: driver: 565 -> 570" in line for line in lines)
    assert f"    commits: {STEP - 1}abcdef..{STEP}abcdef" in lines
    assert lines[-1].startswith(
        f"`dnnbench bisect --good {STEP - 1}abcdef --bad {STEP}abcdef -- ARGUMENTS` measures"
    )


def test_the_commits_of_a_change_can_be_given_to_git(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names of 40 letters stood there with an ellipsis, which git does not know."""
    for path in storage.rglob("*.json"):
        content = json.loads(path.read_text())
        content["commit_info"]["id"] = content["commit_info"]["id"] * 5
        path.write_text(json.dumps(content))
    assert main(["history", str(storage)]) == 0
    before, after = (f"{day}abcdef" * 2 for day in (STEP - 1, STEP))
    assert f"    commits: {before[:12]}..{after[:12]}" in capsys.readouterr().out.splitlines()


def set_torch(storage: Path, days: range, version: str) -> None:
    """The sessions of these days were measured with this torch."""
    for path in sorted(storage.rglob("*.json"))[days.start - 1 : days.stop - 1]:
        content = json.loads(path.read_text())
        record = content["benchmarks"][0]["extra_info"]["dnnbench"]
        record["environment"]["must_match"]["torch"] = version
        path.write_text(json.dumps(content))


def test_a_change_before_an_upgrade_is_named_still(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After an upgrade of torch every earlier session was left out, and its changes with it."""
    set_torch(storage, range(26, 29), "2.14.0")
    assert main(["history", str(storage)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("28 sessions, 1 history and 1 in earlier environments: 1 with")
    head = f"{CASE}: throughput, 25 sessions, 3 of another environment,"
    assert f"{head} before torch: 2.13.0 -> 2.14.0" in lines
    assert any(line.startswith(f"  from {STEP:04}_night.json") for line in lines)
    assert f"  {CASE}: 3 sessions, 25 of another environment" in lines
    assert any("`--across torch` makes one of them" in line for line in lines)
    assert main(["history", str(storage), "--json"]) == 0
    newest, earlier = json.loads(capsys.readouterr().out)["histories"]
    assert newest["newest_differs"] == []
    assert earlier["newest_differs"] == ["torch: 2.13.0 -> 2.14.0"]
    assert earlier["sessions"] == list(range(25))


def test_sessions_of_two_machines_in_turn_have_a_history_each(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in range(1, 29, 2):
        set_torch(storage, range(day, day + 1), "2.14.0")
    assert main(["history", str(storage), "--json"]) == 0
    newest, earlier = json.loads(capsys.readouterr().out)["histories"]
    assert newest["sessions"] == list(range(1, 28, 2))
    assert earlier["sessions"] == list(range(0, 27, 2))
    assert newest["other_environment"] == earlier["other_environment"] == 14


def suite(storage: Path, slower: int, steady: int) -> None:
    """Gives every session more cases: some as slow as the first, some that never change."""
    first = next(iter(sorted(storage.rglob("*.json"))))
    before = json.loads(first.read_text())["benchmarks"][0]
    for path in storage.rglob("*.json"):
        content = json.loads(path.read_text())
        (own,) = content["benchmarks"]
        for number in range(slower + steady):
            entry = dict(own if number < slower else before)
            entry["fullname"] = CASE.replace("test_train", f"test_{number}")
            content["benchmarks"].append(entry)
        path.write_text(json.dumps(content))


def test_cases_that_change_together_stand_in_one_line_and_quiet_ones_too(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite(storage, slower=4, steady=5)
    assert main(["history", str(storage)]) == 0
    lines = capsys.readouterr().out.splitlines()
    head = f"from {STEP:04}_night.json (2026-03-{STEP}) on: throughput worse in 5 cases, -"
    (digest,) = [line for line in lines if line.startswith(head)]
    assert digest.endswith(" and 2 more")
    (quiet,) = [line for line in lines if line.startswith("  cases.py::test_4")]
    assert quiet.endswith(" and 2 more: 28 sessions")


def test_programs_get_every_value_and_change(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = "throughput,allocated_peak_bytes"
    assert main(["history", str(storage), "--json", "--metric", metrics]) == 0
    output = json.loads(capsys.readouterr().out)
    speed, memory = output["histories"]
    assert len(speed["values"]) == len(speed["sessions"]) == 28
    (change,) = speed["changes"]
    assert output["sessions"][change["from"]]["file"] == f"{STEP:04}_night.json"
    assert change["interval"][0] < change["change"] < change["interval"][1] < 0
    assert change["worse"] is True
    assert memory["changes"] == []


def test_a_history_of_too_few_sessions_is_not_said_to_have_no_change(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cases whose every session was disturbed stood under "no change"."""
    files = list(map(str, sorted(storage.rglob("*.json"))))
    head = "not known, for a change shows in 11 sessions at the earliest:"
    for count, expected in ((10, head), (11, "no change:")):
        assert main(["history", *files[:count]]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[1:3] == ["", expected]
        assert lines[3].endswith(f": {count} sessions")


@pytest.mark.parametrize("rate", ["0", "0.0009", "0.5", "nan"])
def test_a_rate_at_which_no_change_could_be_named_is_refused(
    storage: Path, capsys: pytest.CaptureFixture[str], rate: str
) -> None:
    """At less than a thousandth every history had no change."""
    assert main(["history", str(storage), "--false-alarms", rate]) == 2
    assert "give at least 0.001, and below 0.5" in capsys.readouterr().err
    assert main(["history", str(storage), "--false-alarms", "0.001"]) == 0
    assert f"from {STEP:04}_night.json (" in capsys.readouterr().out


def test_sessions_of_another_environment_count_only_when_asked_for(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_torch(storage, range(1, STEP), "2.12.0")
    assert main(["history", str(storage)]) == 0
    assert f"11 sessions, {STEP - 1} of another environment" in capsys.readouterr().out
    assert main(["history", str(storage), "--across", "torch"]) == 0
    assert "driver: 565 -> 570; torch: 2.12.0 -> 2.13.0" in capsys.readouterr().out


def test_a_damaged_session_is_named_and_passed_over(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    next(storage.rglob("0003_*.json")).write_text("{")
    assert main(["history", str(storage)]) == 0
    shown = capsys.readouterr()
    assert "passed over: " in shown.err
    assert shown.out.startswith("27 sessions")


def test_the_latest_sessions_of_each_machine_are_read(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = storage / "Another-Machine"
    other.mkdir()
    for path in sorted((storage / "Linux-CPython").iterdir())[:3]:
        (other / path.name).write_text(path.read_text())
    # The ten thousandth session comes after the 9999th, whatever an alphabet says.
    last = session(28, 1.0, np.random.default_rng(1))
    (storage / "Linux-CPython" / "10000_night.json").write_text(json.dumps(last))
    assert main(["history", str(storage), "--last", "2", "--json"]) == 0
    files = [each["file"] for each in json.loads(capsys.readouterr().out)["sessions"]]
    assert sorted(files) == sorted(
        ["0002_night.json", "0003_night.json", "0028_night.json", "10000_night.json"]
    )


def test_a_session_that_is_given_twice_counts_once(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["history", str(storage), "--json"]) == 0
    once = capsys.readouterr().out
    copy = storage / "copy.json"
    copy.write_text((storage / "Linux-CPython" / "0003_night.json").read_text())
    assert main(["history", str(storage), str(copy), "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.out == once
    assert shown.err == "passed over: copy.json holds the session of 0003_night.json again\n"


def test_what_is_not_there_is_refused_with_what_is(
    storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["history", str(storage), "--case", "horovod"]) == 2
    assert f"of 1 case, as {CASE}" in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["history", str(empty)]) == 2
    assert "holds no stored session" in capsys.readouterr().err


def test_the_page_draws_a_line_where_the_level_changed(storage: Path) -> None:
    from matplotlib.figure import Figure

    runs = [
        run_of(json.loads(path.read_text()), path.name) for path in sorted(storage.rglob("*.json"))
    ]
    history = next(plot for plot in plots(Study(runs)) if plot.key == "history")
    axes = Figure().add_subplot()
    history.panels[0].draw(axes)
    (line,) = [line for line in axes.get_lines() if line.get_label() == "change of the level"]
    assert list(np.asarray(line.get_xdata(), dtype=float)) == [STEP - 1.5] * 2
