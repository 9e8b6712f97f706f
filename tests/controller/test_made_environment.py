"""Environments that are made for a requirement: by the real venv and pip, from a folder of packages
that the test makes, without a network."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pytest_dnnbench.controller import made_environment as made
from pytest_dnnbench.controller.kept_environments import kept_environments
from pytest_dnnbench.errors import UsageError


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that is all that pip can see, and a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    tmp_path.joinpath("index").mkdir()
    return tmp_path / "index"


def add_package(index: Path, name: str, version: str, requires: str = "") -> None:
    """A package with a program of the same name, which says the version on stderr."""
    facts = f"{name}-{version}.dist-info"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    with zipfile.ZipFile(index / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        wheel.writestr(
            f"{facts}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
        )
        wheel.writestr(f"{facts}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        program = f"[console_scripts]\n{name} = {name}:VERSION.strip\n"
        wheel.writestr(f"{facts}/entry_points.txt", program)
        wheel.writestr(f"{facts}/RECORD", "")


def answer(python: str, code: str) -> str:
    run = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.strip()


def test_the_requirement_is_laid_over_this_environment_and_kept(index: Path) -> None:
    """msgspec, which is here in another version, is shadowed; numpy stays the very same files."""
    add_package(index, "msgspec", "99.1")
    said: list[str] = []
    python = made.made_environment(["msgspec==99.1"], said.append)
    assert len(said) == 1
    ours = answer(sys.executable, "import numpy; print(numpy.__file__)")
    assert answer(python, "import numpy; print(numpy.__file__)") == ours
    assert answer(python, "import msgspec; print(msgspec.VERSION)") == "99.1"
    code = "import importlib.metadata as m; print(m.version('msgspec'), m.version('numpy'))"
    there, numpy = answer(python, code).split()
    assert (there, numpy) == ("99.1", answer(sys.executable, code).split()[1])
    assert made.made_environment(["msgspec==99.1"], said.append) == python
    assert len(said) == 1, "it was made once"
    folder = Path(python).parents[1]
    program = subprocess.run([folder / "bin" / "msgspec"], stderr=subprocess.PIPE, text=True)
    assert program.stderr.strip() == "99.1", "it names the interpreter where that is now"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    (environment,) = kept_environments()
    assert environment.requirements == ("msgspec==99.1",)
    assert environment.is_whole


def test_what_pip_says_is_shown_and_nothing_half_made_is_left(index: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as failed:
        made.made_environment(["no-such-package==1"], lambda line: None)
    text = str(failed.value)
    assert "no environment could be made for no-such-package==1" in text
    assert "No matching distribution found for no-such-package==1" in text
    assert list((tmp_path / "cache" / "pytest-dnnbench" / "environments").iterdir()) == []


def test_a_requirement_that_needs_another_version_of_something_else_fails(index: Path) -> None:
    """The versions of everything else stay: that is what the comparison is about."""
    add_package(index, "needy", "1.0", "numpy==0.1")
    add_package(index, "numpy", "0.1")
    with pytest.raises(UsageError, match=r"no environment could be made for needy==1\.0"):
        made.made_environment(["needy==1.0"], lambda line: None)


def test_what_is_pinned_to_a_required_package_moves_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pins = {"torchvision": {"torch"}, "torch": {"triton", "cublas"}, "numpy": set[str](),
            "triton": set[str](), "cublas": set[str](), "pillow": set[str]()}  # fmt: skip
    assert made.tied_to({"torch"}, pins) == {"torch", "torchvision", "triton", "cublas"}
    assert made.tied_to({"numpy"}, pins) == {"numpy"}
    monkeypatch.setattr(made, "_pins", lambda: pins)
    monkeypatch.setattr(made, "_versions", lambda: dict.fromkeys(pins, "1"))
    assert made.constraints_of(["torch==2.9.1"]) == ["numpy==1", "pillow==1"]
    assert made._needs_the_required(["torch==2.9.1"]) == {"torchvision"}
