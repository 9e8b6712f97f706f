"""The compare command: its verdicts, its forms, its exit status, its start."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_dnnbench.__main__ import main
from pytest_dnnbench.results.records.schema import Record
from tests.results.synthetic import GIB, NAME, disturbed, elsewhere, record, save

OTHER = NAME.replace("2gpu", "4gpu")


def pair(tmp_path: Path, **new: float) -> list[str]:
    old = save(tmp_path / "old.json", {NAME: record(), OTHER: record(seed=1)})
    now = save(tmp_path / "new.json", {NAME: record(seed=2, **new), OTHER: record(seed=3)})
    return ["compare", str(old), str(now)]


def test_nothing_worse_is_exit_status_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(pair(tmp_path)) == 0
    assert "2 cases: " in capsys.readouterr().out


def test_a_slower_case_is_exit_status_1_and_named_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(pair(tmp_path, level=0.7)) == 1
    shown = capsys.readouterr().out
    assert f"regressed: {NAME}" in shown
    assert f"regressed: {OTHER}" not in shown
    assert "throughput: baseline " in shown
    assert "95% interval" in shown


def test_memory_of_two_percent_more_fails_and_of_half_a_percent_does_not(tmp_path: Path) -> None:
    assert main(pair(tmp_path, memory=1.02 * GIB)) == 1
    assert main(pair(tmp_path, memory=1.005 * GIB)) == 0


def test_limits_of_the_command_line_win(tmp_path: Path) -> None:
    arguments = pair(tmp_path, memory=1.02 * GIB)
    assert main([*arguments, "--limits", "allocated_peak_bytes=+5%"]) == 0
    assert main([*arguments, "--limits", "allocated_peak_bytes=off"]) == 0
    assert main([*arguments, "--limits", "allocated_peak_bytes=<=1GiB +5%"]) == 1
    assert main([*arguments, "--limits", "allocated_peak_bytes=+5%,throughput>=4000"]) == 1
    twice = ("--limits", "throughput>=4000", "--limits", "allocated_peak_bytes=+5%")
    assert main([*arguments, *twice]) == 1, "both hold"


def test_a_limit_that_an_incomparable_case_keeps_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = save(tmp_path / "old.json", {NAME: record()})
    now = save(tmp_path / "new.json", {NAME: record(gpus=4)})
    assert main(["compare", str(old), str(now), "--limits", "throughput>=1"]) == 0
    shown = capsys.readouterr().out
    assert f"incomparable: {NAME}" in shown
    assert re.search(r"limit held: throughput: .*, required: at least 1 img/s, kept by ", shown)


def test_json_is_for_programs_and_markdown_for_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*pair(tmp_path, level=0.7), "--json"]) == 1
    output = json.loads(capsys.readouterr().out)
    assert output["verdicts"][NAME]["metrics"]["throughput"]["status"] == "regressed"
    assert main([*pair(tmp_path, level=0.7), "--markdown"]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("### Benchmarks: regressed")
    assert f"| `{NAME}` | throughput | " in shown


def test_cases_that_one_file_lacks_are_said_and_fail_when_required(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = save(tmp_path / "old.json", {NAME: record(), OTHER: record()})
    new = save(tmp_path / "new.json", {NAME: record(), "t.py::new": record()})
    arguments = ["compare", str(old), str(new)]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert f"new.json lacks {OTHER}" in shown
    assert "old.json lacks t.py::new" in shown
    assert main([*arguments, "--require-baseline"]) == 1


def test_unlike_runs_are_refused_and_can_be_compared_on_purpose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = save(tmp_path / "old.json")
    upgraded = elsewhere(record(0.7), torch="2.14.0")
    arguments = ["compare", str(old), str(save(tmp_path / "new.json", {NAME: upgraded}))]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "not comparable with old.json: torch: 2.13.0 -> 2.14.0" in shown
    assert "1 case: 1 incomparable" in shown
    assert main([*arguments, "--require-baseline"]) == 1
    assert main([*arguments, "--across", "torch"]) == 1


def test_a_session_is_not_compared_with_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of disturbed launches a baseline keeps no times: the moment of saving and the memory tell."""
    for name, case in (("quiet", record()), ("busy", busy(record()))):
        path = str(save(tmp_path / f"{name}.json", {NAME: case}))
        assert main(["compare", path, path]) == 0
        assert "is not compared with itself" in capsys.readouterr().out
    path = str(save(tmp_path / "other.json", {NAME: busy(record(memory=2 * GIB))}))
    assert main(["compare", str(tmp_path / "busy.json"), path]) == 1
    assert "not compared with itself" not in capsys.readouterr().out


def busy(quiet: Record) -> Record:
    """The record, with every launch disturbed."""
    return disturbed(quiet, "other processes", 0, 1, 2)


def test_bad_input_is_exit_status_2_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = str(save(tmp_path / "good.json"))
    (tmp_path / "bad.json").write_text('{"benchmarks": ')
    for arguments in (
        [good, str(tmp_path / "bad.json")],
        [str(tmp_path / "bad.json"), good],
        [good, good, "--limits", "speed=-5%"],
        [good, good, "--false-alarms", "1"],
    ):
        assert main(["compare", *arguments]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_stored_sessions_are_named_by_number_or_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    machine = tmp_path / ".benchmarks" / "a"
    machine.mkdir(parents=True)
    save(machine / "0001_nightly.json")
    save(machine / "0012_nightly.json", {NAME: record(seed=2, level=0.7)})
    assert main(["compare", "1", "0012"]) == 1
    assert main(["compare", "0001", str(machine / "0012_nightly.json")]) == 1
    capsys.readouterr()
    assert main(["compare", "0001", "7"]) == 2
    assert capsys.readouterr().err == (
        "dnnbench compare: 7 is no file, and as a stored session: none is in .benchmarks; name a"
        " file\n"
    )
    (tmp_path / ".benchmarks" / "b").mkdir()
    save(tmp_path / ".benchmarks" / "b" / "0001_other.json")
    assert main(["compare", "0001", "12"]) == 2
    both = ".benchmarks/a/0001_nightly.json, .benchmarks/b/0001_other.json"
    assert f"session: {both}; name" in capsys.readouterr().err


def test_the_command_starts_without_torch(tmp_path: Path) -> None:
    script = (
        "import sys; from pytest_dnnbench.__main__ import main; status = main(sys.argv[1:]);"
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script, *pair(tmp_path)], capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
