"""The other side of a comparison: what an interpreter is asked, what is refused, and what its ranks
have on `sys.path`."""

import dataclasses
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_dnnbench import messages, protocol
from pytest_dnnbench.controller import side
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.controller.side import Side, other_side, software_of
from pytest_dnnbench.errors import UsageError
from tests.patience import HANG_S
from tests.rank import programs


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a virtual environment without any package."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


def fake_python(folder: Path, body: str) -> Path:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_an_interpreter_without_torch_is_refused_in_one_line(bare: Path) -> None:
    with pytest.raises(UsageError) as refused:
        other_side("bare", str(bare), (), {})
    text = str(refused.value)
    assert text.startswith(f"{bare} cannot import torch, ")
    assert text.endswith("which every rank needs: install it there")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("body", "said"),
    [("echo what; exit 3", "status 3"), ("exit 0", "it said nothing"), ("echo '{}'", "status 0")],
)
def test_a_program_that_is_no_interpreter_is_refused(tmp_path: Path, body: str, said: str) -> None:
    with pytest.raises(UsageError, match="does not answer like a Python interpreter") as refused:
        software_of(str(fake_python(tmp_path, body)))
    assert said in str(refused.value)


def test_a_file_that_cannot_be_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be run as a Python interpreter"):
        software_of(str(tmp_path / "missing"))


def test_a_pytest_dnnbench_with_other_messages_is_refused(tmp_path: Path) -> None:
    package = tmp_path / "pytest_dnnbench"
    package.mkdir()
    package.joinpath("__init__.py").write_text("")
    with pytest.raises(UsageError, match="has a pytest-dnnbench that ranks cannot be started with"):
        other_side("old", sys.executable, [str(tmp_path)], {})
    package.joinpath("protocol.py").write_text("def protocol():\n    return 'another'\n")
    with pytest.raises(UsageError, match="has other messages than this one"):
        other_side("old", sys.executable, [str(tmp_path)], {})


def test_the_protocol_changes_with_any_field_of_any_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = protocol.protocol()
    assert before == protocol.protocol()
    changed = dataclasses.make_dataclass(
        "Place", [*((field.name, field.type) for field in dataclasses.fields(messages.Place)),
                  ("more", int)], frozen=True
    )  # fmt: skip
    kinds = [changed if kind is messages.Place else kind for kind in protocol._MESSAGES]
    monkeypatch.setattr(protocol, "_MESSAGES", tuple(kinds))
    assert protocol.protocol() != before


def test_the_users_folders_reach_side_b_and_the_packages_of_side_a_do_not(
    bare: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of an environment that borrows our package, and is taken to have what ranks need."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(side, "NEEDED", ())
    # In one step: undoing `syspath_prepend` after it would leave this path to later tests.
    monkeypatch.setattr(sys, "path", [str(tmp_path / "suite"), *side.our_software().own])
    other = other_side("bare", str(bare), [str(tmp_path / "first")], {})
    assert other.sys_path[:2] == (str(tmp_path / "first"), str(tmp_path / "suite"))
    assert str(bare.parents[1]) in other.sys_path[-2]
    assert not {*side.our_software().own} & {
        entry for entry in other.sys_path if entry.endswith("-packages")
    }
    borrowed = Path(other.sys_path[-1])
    assert [path.name for path in borrowed.iterdir()] == ["pytest_dnnbench"]
    assert borrowed.joinpath("pytest_dnnbench").resolve() == side.PACKAGE
    assert other.variables["VIRTUAL_ENV"] == str(bare.parents[1])
    assert other.variables["PATH"].startswith(f"{bare.parent}{os.pathsep}")


def test_variables_and_folders_reach_the_ranks_of_side_b_alone(
    two_ranks: Ranks, tmp_path: Path
) -> None:
    variables = {"DNNBENCH_SIDE": "B", "OMP_NUM_THREADS": "3"}
    b = Side("B", front=(str(tmp_path),), variables=variables)
    assert b.threads == 3
    with ForkServer(side=b) as server:
        ranks = Ranks(server, ["cpu"], threads=3, timeout_s=HANG_S)
        names = ["DNNBENCH_SIDE", "OMP_NUM_THREADS"]
        assert ranks.run(programs.variables_and_first_path, names) == [["B", "3", str(tmp_path)]]
    a = two_ranks.run(programs.variables_and_first_path, names)[0]
    assert a[:2] == [None, "1"]
    assert a[2] != str(tmp_path)
