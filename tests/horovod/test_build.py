"""The build of Horovod from its source to the kept wheel. pip is a stand-in that records how it is
called (stand_in/pip); nothing is downloaded or compiled. CMake, where it is used, is the real
one."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_dnnbench.errors import BuildError
from pytest_dnnbench.horovod_build import steps
from pytest_dnnbench.horovod_build.command import wheel_for
from pytest_dnnbench.horovod_build.recipe import CMAKE_FOLDER
from pytest_dnnbench.horovod_build.requisites import find_cmake
from pytest_dnnbench.horovod_build.wheel_store import WheelStore
from tests.horovod import recipes, stand_in
from tests.horovod.stand_in.pip.__main__ import SOURCE
from tests.patience import HANG_S

Calls = Callable[[str], list[dict[str, Any]]]

SOURCE_DIGEST = hashlib.sha256(SOURCE).hexdigest()

BUILDER = """
import sys
from pathlib import Path
from pytest_dnnbench.horovod_build import steps
from pytest_dnnbench.horovod_build.command import wheel_for
from pytest_dnnbench.horovod_build.wheel_store import WheelStore
from tests.horovod import recipes

steps.SDIST_SHA256 = {digest!r}
print(wheel_for(recipes.CPU, WheelStore(Path({store!r})), jobs=1).read_text())
"""

PROJECT = """
cmake_minimum_required(VERSION 3.19)
project(gloo CXX)
set(CMAKE_CXX_STANDARD 14)
add_library(object OBJECT object.cc)
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Puts the stand-in in the place of pip; gives its calls of one command so far."""
    log = tmp_path / "calls"
    root = Path(__file__).resolve().parents[2]
    search_path = [*stand_in.__path__, str(root), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, search_path)))
    monkeypatch.setenv("STAND_IN_CALLS", str(log))
    monkeypatch.setattr(steps, "SDIST_SHA256", SOURCE_DIGEST)

    def calls_of(command: str) -> list[dict[str, Any]]:
        lines = log.read_text().splitlines() if log.exists() else []
        return [call for call in map(json.loads, lines) if call["command"] == command]

    return calls_of


@pytest.fixture
def store(tmp_path: Path) -> WheelStore:
    return WheelStore(tmp_path / "store")


def test_the_source_is_fetched_compiled_against_this_torch_and_kept(
    store: WheelStore, calls: Calls
) -> None:
    wheel = wheel_for(recipes.CPU, store, jobs=4)
    assert wheel.read_bytes() == b"whole"
    assert wheel == store.find(recipes.CPU.key)
    (download,) = calls("download")
    assert "horovod==0.28.1" in download["arguments"]
    (build,) = calls("wheel")
    assert {"--no-build-isolation", "--no-cache-dir", "--no-deps"} <= set(build["arguments"])
    assert build["environment"]["MAKEFLAGS"] == "-j4"
    assert Path(build["environment"]["CMAKE_TOOLCHAIN_FILE"]).is_file()
    assert "HOROVOD_GPU_OPERATIONS" not in build["environment"]
    assert "=== compile" in (wheel.parent / "build.log").read_text()


def test_a_build_for_cuda_gets_nccl_and_the_gpus_of_this_machine(
    store: WheelStore, calls: Calls
) -> None:
    wheel_for(recipes.CUDA, store, jobs=1)
    (build,) = calls("wheel")
    asked = {name: build["environment"].get(name) for name in recipes.CUDA.environment(jobs=1)}
    assert asked == recipes.CUDA.environment(jobs=1)
    assert asked["HOROVOD_GPU_OPERATIONS"] == "NCCL"
    assert asked["HOROVOD_BUILD_CUDA_CC_LIST"] == "80,90"


def test_a_kept_wheel_is_not_built_again_unless_asked_for(store: WheelStore, calls: Calls) -> None:
    first = wheel_for(recipes.CPU, store, jobs=1)
    assert wheel_for(recipes.CPU, store, jobs=1) == first
    assert len(calls("wheel")) == 1
    assert wheel_for(recipes.CPU, store, jobs=1, again=True) == first
    assert len(calls("wheel")) == 2


def test_a_source_archive_that_is_given_is_not_downloaded(
    store: WheelStore, calls: Calls, tmp_path: Path
) -> None:
    archive = tmp_path / "horovod-0.28.1.tar.gz"
    archive.write_bytes(SOURCE)
    wheel_for(recipes.CPU, store, jobs=1, sdist=archive)
    assert calls("download") == []
    assert str(archive) in calls("wheel")[0]["arguments"]


def test_a_source_other_than_horovods_is_refused_before_it_is_run(
    store: WheelStore, calls: Calls, tmp_path: Path
) -> None:
    other = tmp_path / "horovod-0.28.1.tar.gz"
    other.write_bytes(b"not it")
    with pytest.raises(BuildError, match=hashlib.sha256(b"not it").hexdigest()):
        wheel_for(recipes.CPU, store, jobs=1, sdist=other)
    assert store.find(recipes.CPU.key) is None
    assert calls("wheel") == []


def test_a_compilation_that_fails_leaves_its_log_and_no_wheel(
    store: WheelStore, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = "g++: fatal error: Killed signal terminated program cc1plus"
    monkeypatch.setenv("STAND_IN_OUTPUT", output)
    with pytest.raises(BuildError, match=r"step 'compile' ended with status 1.*use --jobs 1"):
        wheel_for(recipes.CPU, store, jobs=1)
    assert store.find(recipes.CPU.key) is None
    assert output in store.failure_log(recipes.CPU.key).read_text()


def test_one_of_three_builders_builds_and_all_get_the_wheel(
    store: WheelStore, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_WAIT_FOR", str(tmp_path / "go on"))
    script = BUILDER.format(digest=SOURCE_DIGEST, store=str(store.folder))
    outputs = [tmp_path / f"output{number}" for number in range(3)]
    builders = []
    for path in outputs:
        with path.open("w") as output:
            builders.append(subprocess.Popen([sys.executable, "-c", script], stdout=output))
    try:
        deadline = time.monotonic() + HANG_S
        while sum("waiting for it" in path.read_text() for path in outputs) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        (tmp_path / "go on").touch()
        statuses = [builder.wait(HANG_S) for builder in builders]
    assert statuses == [0, 0, 0]
    assert all(path.read_text().splitlines()[-1] == "whole" for path in outputs)
    assert len(calls("wheel")) == 1


def test_cmake_builds_a_project_of_the_bundle_as_cpp20_without_debug_information(
    tmp_path: Path,
) -> None:
    cmake = find_cmake()
    if cmake is None:
        pytest.skip("needs CMake 3.19; without it a build fetches one for itself")
    (tmp_path / "CMakeLists.txt").write_text(PROJECT)
    (tmp_path / "object.cc").write_text("int answer() { return 42; }\n")
    settings = ["-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
    environment = {**os.environ, **recipes.CPU.environment(jobs=1)}
    subprocess.run(
        [cmake, *settings, "-S", str(tmp_path), "-B", str(tmp_path / "build")],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (entry,) = json.loads((tmp_path / "build" / "compile_commands.json").read_text())
    flags = entry["command"].split()
    assert "-std=gnu++20" in flags, "the project asks for C++14, torch's headers need C++20"
    assert "-DNDEBUG" in flags
    assert "-g" not in flags


def test_cmake_files_are_part_of_the_package() -> None:
    names = {
        str(path.relative_to(CMAKE_FOLDER)) for path in CMAKE_FOLDER.rglob("*") if path.is_file()
    }
    assert names == {
        "FindPytorch.cmake",
        "project.cmake",
        "slim/torch/extension.h",
        "slim/torch/torch.h",
        "toolchain.cmake",
        "unity.cmake",
    }
