"""The program `dnnbench` as a user sees it."""

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pytest_dnnbench
from pytest_dnnbench.__main__ import COMMANDS, SIGPIPE_STATUS, main, script

ROOT = Path(pytest_dnnbench.__file__).parents[1]


def test_the_help_lists_every_command_and_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: dnnbench COMMAND ...")
    assert all(f"\n  {name} " in shown for name in COMMANDS)


def test_without_a_command_the_help_is_shown_and_the_status_is_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().out


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pytest-dnnbench {pytest_dnnbench.__version__}\n"


def test_an_unknown_command_is_refused_with_those_that_exist(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["benchmark"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("dnnbench: unknown command 'benchmark': choose from init, compare")


def test_an_error_of_a_command_is_one_line_that_names_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "missing.json")
    assert main(["compare", missing, missing]) == 2
    message = capsys.readouterr().err
    assert message.startswith("dnnbench compare: ")
    assert missing in message
    assert message.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_calls_itself_by_the_name_of_the_program(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: dnnbench {name} ")


@pytest.mark.parametrize(
    "arguments",
    [
        *(["compare", "a", "b", flag] for flag in ("--limits", "--across")),
        *(["history", flag] for flag in ("--metric", "--across")),
        ["replay", "a", "--across"],
        ["export", "a", "--to", "bencher", "-o", "b", "--metrics"],
        ["report", "a", "-o", "b", "--models"],
    ],
)
@pytest.mark.parametrize("empty", ["", " ,"])
def test_an_empty_list_is_refused_and_no_list_of_nothing(
    arguments: list[str], empty: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, empty])
    assert ended.value.code == 2
    refusal = f"argument {arguments[-1]}: it is empty: give a value, or leave it out"
    assert capsys.readouterr().err.splitlines()[-1].endswith(refusal)


def test_the_package_installs_the_program() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["dnnbench"].partition(":")
    assert getattr(importlib.import_module(module), function) is script


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--help"]])
def test_a_reader_that_has_gone_ends_the_program_without_a_traceback(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "pytest_dnnbench", *arguments],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=buffered,
        )
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (SIGPIPE_STATUS, "")
