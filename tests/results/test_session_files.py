"""Which saved files a command reads, from files and storages that are named."""

import json
from pathlib import Path

import pytest

from pytest_dnnbench.errors import DataError, UsageError
from pytest_dnnbench.report import command, export_command
from pytest_dnnbench.results.baselines.session_files import left_out, session_files
from tests.report.records import session

NIGHTS = ["0001_night.json", "0002_night.json", "0010_night.json", "10000_night.json"]


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """Of two machines: four sessions of one and one of the other, of a case each."""
    folder = tmp_path / ".benchmarks"
    for day, name in enumerate(["a/" + night for night in NIGHTS] + ["b/0001_night.json"], 1):
        content = session(frameworks=["single"], counts=[1], phases=["train"], day=day)
        folder.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
        folder.joinpath(name).write_text(json.dumps(content))
    folder.joinpath("a", "notes.json").write_text("{}")
    return folder


def names(files: list[Path]) -> list[str]:
    """Folder and name of each file."""
    return [f"{file.parent.name}/{file.name}" for file in files]


def test_of_a_storage_the_numbered_sessions_of_each_machine_are_read(storage: Path) -> None:
    assert names(session_files([storage])) == [f"a/{night}" for night in NIGHTS] + [
        "b/0001_night.json"
    ]


def test_the_latest_are_those_of_each_machine_by_number(storage: Path) -> None:
    files = session_files([storage], latest=2)
    assert names(files) == ["a/0010_night.json", "a/10000_night.json", "b/0001_night.json"]
    assert "2 earlier sessions left out" in left_out([storage], files)


def test_a_shell_s_pattern_and_the_folder_itself_name_the_same(storage: Path) -> None:
    by_pattern = sorted(storage.glob("a/*_night.json"))
    assert {*session_files(by_pattern, 2)} == {*session_files([storage / "a"], 2)}
    assert session_files([storage, *by_pattern]) == session_files([storage])


def test_a_file_that_the_storage_did_not_number_counts_whatever_the_latest(storage: Path) -> None:
    own = storage / "a" / "notes.json"
    assert own in session_files([storage, own], latest=1)


@pytest.mark.parametrize("name", ["nowhere", "a/0009_night.json"])
def test_a_path_that_does_not_exist_is_refused(storage: Path, name: str) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        session_files([storage / name])


def test_a_folder_without_a_stored_session_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no stored session"):
        session_files([tmp_path])


def test_a_report_of_a_storage_has_the_latest_sessions(
    storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(storage), "--last", "2", "-o", str(tmp_path / "report")]) == 0
    assert "1 case of 3 sessions" in capsys.readouterr().out


def test_a_damaged_session_of_a_storage_is_passed_over_and_one_that_is_named_is_not(
    storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = storage / "a" / NIGHTS[1]
    damaged.write_text("{")
    arguments = ["--to", "openmetrics", "-o", str(tmp_path / "out")]
    assert export_command.main([str(storage), *arguments]) == 0
    assert f"passed over: {damaged}" in capsys.readouterr().err
    with pytest.raises(DataError, match=damaged.name):
        export_command.main([str(damaged), *arguments])
