"""`dnnbench init` as somebody uses it who has only installed the package."""

from importlib.resources import files
from pathlib import Path

import pytest

import pytest_dnnbench
from pytest_dnnbench.__main__ import main
from pytest_dnnbench.init.command import CONFIGURATION

ROOT = Path(pytest_dnnbench.__file__).parents[1]
MODEL = """
from torch import nn

def small(channels=1, classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 28 * 28, classes))
"""
TINY = ("--gpus", "1", "--dnn-device", "cpu", "--dnn-frameworks", "single", "--dnn-batch-size", "4")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which commands run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_cases_are_those_of_the_suite() -> None:
    packed = files("pytest_dnnbench.init").joinpath("files", "test_steps.py.txt").read_text()
    assert packed == (ROOT / "bench_cases" / "test_steps.py").read_text()


def test_the_cases_are_written_and_the_next_commands_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init"]) == 0
    assert [str(path.relative_to(folder)) for path in folder.rglob("*.*")] == [
        "bench_cases/test_steps.py"
    ]
    shown = capsys.readouterr().out
    assert "wrote bench_cases/test_steps.py" in shown
    assert "pytest bench_cases --benchmark-disable" in shown
    assert CONFIGURATION in shown


def test_the_workflow_is_written_when_asked_for_and_names_the_folder(folder: Path) -> None:
    assert main(["init", "speed", "--ci"]) == 0
    workflow = (folder / ".github" / "workflows" / "dnnbench.yml").read_text()
    assert "pytest speed " in workflow
    assert "bench_cases" not in workflow


@pytest.mark.parametrize("existing", ["speed/test_steps.py", ".github/workflows/dnnbench.yml"])
def test_an_existing_file_is_kept_and_the_other_one_is_written(
    existing: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`dnnbench init --ci` after `dnnbench init` wrote no workflow."""
    path = folder / existing
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    assert main(["init", "speed", "--ci"]) == 0
    assert f"kept {existing}, which exists already\n" in capsys.readouterr().out
    assert path.read_text() == "mine"
    files = [folder / "speed" / "test_steps.py", folder / ".github" / "workflows" / "dnnbench.yml"]
    assert all(file.read_text() for file in files)
    assert main(["init", "speed", "--ci"]) == 2
    assert "exists already, and no file is overwritten" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "file").write_text("")
    assert main(["init", "file/cases"]) == 2
    assert "file/cases/test_steps.py cannot be written" in capsys.readouterr().err


def test_the_written_cases_run_in_an_empty_folder(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the configuration that the command shows, and a model of the user's own."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert main(["init"]) == 0
    pytester.makepyprojecttoml(CONFIGURATION.replace('"resnet18"', '"my_models:small"'))
    pytester.makepyfile(my_models=MODEL)
    listed = pytester.runpytest_subprocess("bench_cases", *TINY, "--collect-only", "-q")
    listed.stdout.fnmatch_lines(["*test_steps.py::test_train?single-my_models:small-1gpu?"])
    ended = pytester.runpytest_subprocess(
        "bench_cases", *TINY, "--dnn-launches", "1", "--dnn-steps", "2", "-k", "train"
    )
    ended.assert_outcomes(passed=1, deselected=1)
