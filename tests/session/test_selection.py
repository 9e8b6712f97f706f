"""Which cases the command line names."""

from pathlib import Path

import pytest

from pytest_dnnbench.session.selection import is_chosen

STEPS = "cases/test_steps.py::test_train[single-my.models:net-1gpu]"
OTHER = "cases/test_other.py::Suite::test_train[a::b]"
GONE = "cases/test_gone.py::test_train"


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        ([], [STEPS, OTHER, GONE]),
        (["."], [STEPS, OTHER, GONE]),
        (["cases"], [STEPS, OTHER, GONE]),  # a file that is gone is one to be told of
        (["./cases/../cases/test_steps.py"], [STEPS]),
        (["cases/test_steps.py::test_train"], [STEPS]),
        ([STEPS], [STEPS]),
        (["cases/test_steps.py::test_train[ddp]"], []),
        (["cases/test_steps.py::test_validate", "cases/test_other.py::Suite"], [OTHER]),
        (["linked/test_steps.py"], [STEPS]),
        (["elsewhere"], []),
    ],
)
def test_a_case_is_chosen_by_its_file_its_folder_or_its_name(
    pytester: pytest.Pytester, arguments: list[str], chosen: list[str]
) -> None:
    _make_suite(pytester.path)
    config = pytester.parseconfig(*arguments)
    assert [each for each in (STEPS, OTHER, GONE) if is_chosen(each, config)] == chosen


def test_paths_are_those_of_the_folder_that_pytest_runs_in(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    _make_suite(pytester.path)
    monkeypatch.chdir(pytester.path / "cases")
    config = pytester.parseconfig("test_steps.py", f"--rootdir={pytester.path}")
    assert [is_chosen(STEPS, config), is_chosen(OTHER, config)] == [True, False]


def test_what_is_no_path_leaves_nothing_out(pytester: pytest.Pytester) -> None:
    _make_suite(pytester.path)
    config = pytester.parseconfig("--pyargs", "some.package")
    assert is_chosen(STEPS, config)


def _make_suite(folder: Path) -> None:
    (folder / "cases").mkdir()
    (folder / "elsewhere").mkdir()
    for name in ("steps", "other"):
        (folder / "cases" / f"test_{name}.py").touch()
    (folder / "linked").symlink_to(folder / "cases")
