"""Renamed tests keep their history: `dnnbench rename` on saved sessions and golden files."""

import json
import math
from pathlib import Path

import pytest

from pytest_dnnbench.__main__ import main
from pytest_dnnbench.errors import DataError, UsageError
from pytest_dnnbench.report import rename_command
from pytest_dnnbench.report.rename_command import Renaming
from pytest_dnnbench.report.rename_command import main as rename
from pytest_dnnbench.report.runs import read_run
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.results.baselines.golden_file import read_golden
from tests.report.records import session

OLD, NEW = "bench_cases/test_steps.py::test_train", "bench_cases/test_loops.py::test_loop"


def stored(folder: Path, number: int) -> Path:
    """A session whose first case, of training, failed."""
    content = session(frameworks=["single", "ddp"], counts=[1], day=number)
    content["dnnbench"]["failed"] = [content["benchmarks"][0]["fullname"]]
    path = folder / f"{number:04}_night.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("name", "renamed"),
    [
        ("a.py::test_x[ddp-1gpu]", "a.py::test_y[ddp-1gpu]"),
        ("a.py::test_x", "a.py::test_y"),
        ("a.py::test_xy[ddp-1gpu]", "a.py::test_xy[ddp-1gpu]"),
        ("b/a.py::test_x", "b/a.py::test_x"),
    ],
)
def test_only_the_cases_of_the_test_are_renamed(name: str, renamed: str) -> None:
    assert Renaming("a.py::test_x", "a.py::test_y").of(name) == renamed


def test_a_file_that_was_moved_takes_its_tests_along() -> None:
    assert Renaming("a.py", "b.py").of("a.py::test_x[1]") == "b.py::test_x[1]"
    assert Renaming("a.py", "b.py").of("a.pyx::test_x[1]") == "a.pyx::test_x[1]"


def test_the_history_of_a_renamed_test_goes_on(tmp_path: Path) -> None:
    old = stored(tmp_path, 1)
    before = read_run(old)
    assert rename([OLD, NEW, str(tmp_path)]) == 0
    new = stored(tmp_path, 2)
    assert rename([OLD, NEW, str(new)]) == 0
    after = read_run(old)
    names = [result.name for result in after.results]
    assert names == [result.name.replace(OLD, NEW) for result in before.results]
    assert [result.record for result in after.results] == [
        result.record for result in before.results
    ]
    assert after.failures[0][0].startswith(f"{NEW}[")
    assert {len(results) for results in Study([after, read_run(new)]).history.values()} == {2}


def test_a_golden_file_keeps_all_but_the_name(tmp_path: Path) -> None:
    content = session(frameworks=["single"], counts=[1])
    saved = tmp_path / "now.json"
    saved.write_text(json.dumps(content))
    golden = tmp_path / "golden.json"
    assert main(["baseline", "update", str(golden), str(saved)]) == 0
    before = read_golden(golden).cases
    assert rename([OLD, NEW, str(golden)]) == 0
    after = read_golden(golden).cases
    assert {name.replace(OLD, NEW): case for name, case in before.items()} == after
    assert after.keys() != before.keys()


def test_nothing_is_written_where_a_file_has_the_new_name_already(tmp_path: Path) -> None:
    first, second = stored(tmp_path, 1), stored(tmp_path, 2)
    content = json.loads(second.read_text())
    content["benchmarks"][-1]["fullname"] = content["benchmarks"][0]["fullname"].replace(OLD, NEW)
    second.write_text(json.dumps(content))
    kept = first.read_text()
    with pytest.raises(DataError, match="two cases cannot have one name"):
        rename([OLD, NEW, str(tmp_path)])
    assert first.read_text() == kept


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (OLD, "", "'' is not the name of a test"),
        (OLD, "t.py::test_\udcff", "is not the name of a test"),
        (OLD, "t.py::test_x\n", "is not the name of a test"),
        (OLD, OLD, "is the old name and the new one"),
        (OLD, "bench_cases/test_loops.py", "test_loops.py is a file and .*::test_train a test"),
        ("bench_cases/test_steps.py", NEW, "test_steps.py is a file and .*::test_loop a test"),
    ],
)
def test_what_cannot_be_two_names_of_a_test_is_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    kept = stored(tmp_path, 1).read_bytes()
    with pytest.raises(UsageError, match=message):
        rename([old, new, str(tmp_path)])
    assert (tmp_path / "0001_night.json").read_bytes() == kept


def test_nothing_is_written_where_a_file_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = stored(tmp_path, 1), stored(tmp_path, 2)
    kept = first.read_bytes()

    def refuse(option: str, path: Path) -> None:
        if path == second.resolve():
            raise UsageError(f"{option} {path} cannot be written (Read-only file system)")

    monkeypatch.setattr(rename_command, "check_file", refuse)
    with pytest.raises(UsageError, match=r"0002_night\.json cannot be written"):
        rename([OLD, NEW, str(tmp_path)])
    assert first.read_bytes() == kept


def test_a_link_to_a_golden_file_stays_a_link(tmp_path: Path) -> None:
    file, link = stored(tmp_path, 1), tmp_path / "link.json"
    link.symlink_to(file)
    assert rename([OLD, NEW, str(link)]) == 0
    assert link.is_symlink()
    assert NEW in file.read_text()


def test_a_case_that_failed_before_it_was_measured_is_renamed_too(tmp_path: Path) -> None:
    file = stored(tmp_path, 1)
    content = json.loads(file.read_text())
    content["benchmarks"] = []
    file.write_text(json.dumps(content))
    assert rename([OLD, NEW, str(file)]) == 0
    [failed] = json.loads(file.read_text())["dnnbench"]["failed"]
    assert failed.startswith(f"{NEW}[")


def test_other_peoples_benchmarks_stay_as_they_are(tmp_path: Path) -> None:
    """With NaN, which Python writes, and parameters with what parts a name."""
    others = {"fullname": "t.py::test_sum[a::b]", "name": "test_sum[a::b]", "stats": {"min": 0.1}}
    mine = {"fullname": f"{OLD}[a::b]", "name": "test_train[a::b]", "stats": {"min": math.nan}}
    file = tmp_path / "both.json"
    file.write_text(json.dumps({"benchmarks": [others, mine], "version": "5.3.1"}))
    assert rename([OLD, NEW, str(file)]) == 0
    left, renamed = json.loads(file.read_text())["benchmarks"]
    assert left == others
    assert (renamed["fullname"], renamed["name"]) == (f"{NEW}[a::b]", "test_loop[a::b]")
    assert math.isnan(renamed["stats"]["min"])


def test_a_name_that_no_case_has_is_refused(tmp_path: Path) -> None:
    stored(tmp_path, 1)
    with pytest.raises(UsageError, match="no case of these files is of test_train"):
        rename(["test_train", "test_loop", str(tmp_path)])
