"""What the user may write of the other side, and what is refused before anything is measured."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_dnnbench.controller.side import Side
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.session import state
from pytest_dnnbench.session.other_side import (
    Asked,
    asked_side,
    make_side,
    side_differences,
    this_side,
)
from pytest_dnnbench.session.settings import Settings

CASES = "def test_train(dnnbench, process_group):\n    pass\n"


@pytest.mark.parametrize(
    ("against", "name", "requirements"),
    [
        ("torch==2.9.1", "torch==2.9.1", ("torch==2.9.1",)),
        ("old=torch==2.9.1", "old", ("torch==2.9.1",)),
        ("old=torch==2.9.1 torchvision==0.24.1", "old", ("torch==2.9.1", "torchvision==0.24.1")),
        ("torch>=2.9,<2.10", "torch>=2.9,<2.10", ("torch>=2.9,<2.10",)),
        ("torch~=2.9", "torch~=2.9", ("torch~=2.9",)),
    ],
)
def test_requirements(against: str, name: str, requirements: tuple[str, ...]) -> None:
    asked = asked_side(Settings(against=against))
    assert (asked.name, asked.requirements, asked.python) == (name, requirements, None)


def test_an_environments_folder_and_an_interpreter(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    for spec in (tmp_path, python):
        asked = asked_side(Settings(against=f"new={spec}"))
        assert (asked.name, asked.python, asked.requirements) == ("new", str(python), ())


def test_a_folder_first_on_the_path_and_variables_need_no_interpreter(tmp_path: Path) -> None:
    asked = asked_side(Settings(against_path=str(tmp_path), against_env=("A=b=c", "D=")))
    assert asked == Asked(str(tmp_path), None, (), str(tmp_path), {"A": "b=c", "D": ""})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(against="no/such/place"), "there is no such interpreter or folder"),
        (Settings(against="old=no/place"), "--dnn-against old=no/place: there is no such"),
        (Settings(against="torch=2.9.1"), "write the requirement as torch==2.9.1"),
        (Settings(against="."), "the folder has no bin/python"),
        (Settings(against=" "), "--dnn-against is empty"),
        (Settings(against=__file__), "the file cannot be run"),
        (Settings(against_path="no/such/place"), "there is no such folder"),
        (Settings(against_env=("NCCL_ALGO",)), "write NAME=VALUE"),
        (Settings(against_env=("A=1", "A=2")), "A is set twice"),
        (Settings(against_env=("GLOO_SOCKET_IFNAME=eth0",)), "is set by dnnbench"),
        (Settings(against_env=("PYTHONPATH=x",)), "use --dnn-against-path"),
        (Settings(against_env=("OMP_NUM_THREADS=all",)), "a whole number from 1"),
    ],
)
def test_what_cannot_be_is_refused(settings: Settings, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        asked_side(settings)


def test_a_side_that_is_the_same_differs_in_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    asked = asked_side(Settings(against=sys.executable, against_env=("MKL_CBWR=AVX2",)))
    _, entry = make_side(asked, print)
    assert entry.differences == []


def test_what_differs_is_listed_torch_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("NCCL_ALGO", raising=False)
    asked = asked_side(
        Settings(
            against=sys.executable, against_path=str(tmp_path), against_env=("NCCL_ALGO=Tree",)
        )
    )
    side, _ = make_side(asked, print)
    assert side.versions is not None
    changed = {**side.versions, "torch": "1.0", "jinja2": "0.1"}
    del changed["pluggy"]
    lines = side_differences(replace(side, versions=changed), asked)
    assert [line.partition(":")[0] for line in lines] == [
        "torch", "jinja2", "pluggy", "first on sys.path", "NCCL_ALGO",
    ]  # fmt: skip
    assert lines[0].endswith(" -> 1.0")
    assert lines[2].endswith(" -> none")
    assert isinstance(side, Side)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--dnn-against no/such/place", "*there is no such interpreter or folder*"),
        ("--dnn-against-env A=1 --dnn-launches 3", "*fewer than 8 cannot tell*"),
        ("--dnn-against-env A=1 --dnn-launches auto", "*so does --dnn-launches auto*"),
        ("--dnn-against-env A=1 --dnn-calibrate 2", "*so does --dnn-calibrate*"),
        ("--dnn-against-env A=1 -n 2", "*leave out pytest-xdist's -n*"),
        ("--dnn-against-limits throughput=-3%", "*has no effect without another side*"),
        ("--dnn-against-env A=1 --dnn-against-limits throughput=>=3", "*has a bound*"),
        ("--dnn-against-env A=1 --dnn-against-limits speedup=-3%", "*speedup cannot be compared*"),
    ],
)
def test_options_that_cannot_be_together_are_refused_before_anything_starts(
    pytester: pytest.Pytester, options: str, said: str
) -> None:
    pytester.makepyfile(test_cases=CASES)
    result = pytester.runpytest_inprocess("--dnn-device", "cpu", *options.split())
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {said}"])


@pytest.mark.parametrize(
    ("spec", "requirements"),
    [
        ("a @ git+https://example.org/a", ("a @ git+https://example.org/a",)),
        ("a==1,b[x]>=2,<3 c~=1", ("a==1", "b[x]>=2,<3", "c~=1")),
    ],
)
def test_several_requirements(spec: str, requirements: tuple[str, ...]) -> None:
    assert asked_side(Settings(against=spec)).requirements == requirements


@pytest.mark.parametrize(
    ("options", "launches", "confirm"),
    [([], 3, None), (["--dnn-against-env", "A=1"], 16, 3),
     (["--dnn-against-env", "A=1", "--dnn-launches", "40"], 40, None)],
)  # fmt: skip
def test_the_most_rounds_are_sixteen_unless_a_number_is_given(
    pytester: pytest.Pytester, options: list[str], launches: int, confirm: int | None
) -> None:
    config = pytester.parseconfigure(*options)
    settings = config.stash[state.SETTINGS]
    assert (settings.rounds, settings.confirm) == (launches, confirm)
    assert settings.has_other_side is bool(options)


def test_a_side_whose_torch_does_not_import_is_refused_before_anything_is_measured(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(test_cases=CASES)
    pytester.mkdir("broken").joinpath("torch.py").write_text("raise ImportError('half a torch')")
    result = pytester.runpytest_subprocess(
        "--dnn-device", "cpu", "--dnn-against-path", "broken", "--dnn-against", sys.executable
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([
        f"ERROR: --dnn-against: side B ({sys.executable}): ranks cannot be started: torch does not"
        " import: ImportError: half a torch",
    ])  # fmt: skip


def test_a_folder_of_side_a_is_first_there_and_not_on_side_b(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.mkdir()
    side = this_side(Settings(path=str(a)))
    assert side is not None
    assert (side.name, side.python, side.sys_path) == ("A", sys.executable, (str(a), *sys.path))
    assert this_side(Settings()) is None
    other, entry = make_side(asked_side(Settings(against_path=str(b))), print, side.front)
    assert other.sys_path == (str(b), *sys.path)
    assert entry.differences == [f"first on sys.path: {a} -> {b}"]
    same, entry = make_side(asked_side(Settings(against_path=str(a))), print, side.front)
    assert same.sys_path == side.sys_path
    assert entry.differences == [], "a control"
    _, entry = make_side(asked_side(Settings(against=f"now={sys.executable}")), print, side.front)
    assert entry.differences == [f"first on sys.path: {a} -> nothing of its own"]


def test_a_model_may_be_in_the_folder_of_side_a_alone(pytester: pytest.Pytester) -> None:
    pytester.mkdir("checkout").joinpath("mymodel.py").write_text("def model(): ...")
    config = pytester.parseconfigure("--dnn-models", "mymodel:model", "--dnn-path", "checkout")
    assert config.stash[state.CATALOG].model("mymodel:model") == "mymodel:model"
    with pytest.raises(pytest.UsageError, match="no module 'mymodel' can be imported"):
        pytester.parseconfigure("--dnn-models", "mymodel:model")
    with pytest.raises(pytest.UsageError, match="--dnn-path nowhere: there is no such folder"):
        pytester.parseconfigure("--dnn-path", "nowhere")
