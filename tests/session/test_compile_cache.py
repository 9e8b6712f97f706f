"""The folder in which launches of a session share what torch.compile made."""

import os
import stat
from pathlib import Path

import pytest

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.session.compile_cache import (
    CACHE_VARIABLE,
    THREADS_VARIABLE,
    CompileCache,
    check_compiler_of_torch,
)


@pytest.fixture(autouse=True)
def _compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "bin" / "g++"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(compiler.parent))
    for name in ("CXX", CACHE_VARIABLE, THREADS_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def test_launches_share_a_folder_of_the_users_that_ends_with_the_session() -> None:
    cache = CompileCache("cpu")
    variables = cache.variables()
    assert cache.variables() == variables
    assert variables[THREADS_VARIABLE] == "1"
    folder = Path(variables[CACHE_VARIABLE])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (folder / "kernel.so").write_text("")
    cache.close()
    assert not folder.exists()
    cache.close()


def test_a_session_that_compiles_nothing_makes_no_folder(tmp_path: Path) -> None:
    CompileCache("cpu").close()
    assert not list(tmp_path.glob("dnnbench-*"))


def test_a_folder_of_the_users_own_is_taken_and_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    cache = CompileCache("cuda")
    assert cache.variables() == {}
    cache.close()
    assert tmp_path.exists()


def test_a_missing_compiler_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    check_compiler_of_torch()
    monkeypatch.setenv("CXX", "icpx")
    with pytest.raises(UsageError, match="CXX names 'icpx', which is not there: correct it, or"):
        check_compiler_of_torch()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(UsageError, match=r"none of g\+\+, clang\+\+, c\+\+ is on PATH: install"):
        CompileCache("cpu").variables()
    on_gpus = CompileCache("cuda")
    assert THREADS_VARIABLE not in on_gpus.variables()
    on_gpus.close()
