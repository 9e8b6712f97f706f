"""Renamed tests keep their history: `dnnbench rename` on saved sessions and golden files."""

import json
from pathlib import Path

import pytest

from pytest_dnnbench.__main__ import main
from pytest_dnnbench.errors import DataError, UsageError
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


def test_a_name_that_no_case_has_is_refused(tmp_path: Path) -> None:
    stored(tmp_path, 1)
    with pytest.raises(UsageError, match="no case of these files is of test_train"):
        rename(["test_train", "test_loop", str(tmp_path)])
