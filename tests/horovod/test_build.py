"""The build of Horovod: what it depends on, where the wheel is kept, what a failure says. No
compiler runs here."""

import dataclasses
import fcntl
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_dnnbench.errors import BuildError, UsageError
from pytest_dnnbench.horovod_build import command, requisites, steps
from pytest_dnnbench.horovod_build.command import wheel_for
from pytest_dnnbench.horovod_build.recipe import (
    CMAKE_FOLDER,
    Recipe,
    _architecture_flags,
    current_recipe,
)
from pytest_dnnbench.horovod_build.requisites import (
    GpuTools,
    TorchBuild,
    find_gpu_tools,
    installed_torch,
)
from pytest_dnnbench.horovod_build.steps import BuildLog
from pytest_dnnbench.horovod_build.wheel_store import WheelStore

CPU_TORCH = TorchBuild("2.13.0+cpu", None, "abc")
RECIPE = Recipe(
    CPU_TORCH, None, ".cpython-311-x86_64-linux-gnu.so", "linux-x86_64", "-mavx", "", "0123"
)
GPU = GpuTools(Path("/cuda"), "13.0", Path("/nccl"), "22705", (80, 90))


@pytest.fixture
def store(tmp_path: Path) -> WheelStore:
    return WheelStore(tmp_path / "store")


def kept(store: WheelStore, key: str, content: bytes = b"wheel") -> Path:
    with store.scratch(key) as folder:
        (folder / "horovod-0.28.1-py3.whl").write_bytes(content)
        (folder / "build.log").write_text("all is well\n")
        return store.keep(
            key, folder / "horovod-0.28.1-py3.whl", folder / "build.log", {"torch": "2.13.0"}
        )


# What a wheel depends on
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"torch": TorchBuild("2.13.1+cpu", None, "abc")},
        {"torch": TorchBuild("2.13.0+cpu", None, "abd")},
        {"gpu": GPU},
        {"python": ".cpython-312-x86_64-linux-gnu.so"},
        {"platform": "linux-aarch64"},
        {"architecture_flags": ""},
        {"user_flags": "-O3"},
        {"cmake_digest": "0124"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_makes_wheels_differ_makes_their_keys_differ(change: dict[str, object]) -> None:
    assert dataclasses.replace(RECIPE, **change).key != RECIPE.key  # type: ignore[arg-type] # one field at a time


def test_the_key_is_the_same_in_every_process() -> None:
    script = (
        "from pytest_dnnbench.horovod_build.recipe import current_recipe\n"
        "import sys; print(current_recipe(cpu_only=True).key, 'torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert answer.stdout.split() == [current_recipe(cpu_only=True).key, "False"]


def test_the_version_is_one_that_pip_takes_and_tells_torch() -> None:
    from packaging.version import Version

    assert Version(RECIPE.version).public == "0.28.1"
    assert str(Version(RECIPE.version).local) == f"torch2.13.0.cpu.{RECIPE.key}"


def test_the_installed_torch_is_read_without_importing_it() -> None:
    assert installed_torch().version == importlib.metadata.version("torch")


def test_the_installed_horovod_is_the_one_that_fits() -> None:
    assert (
        importlib.metadata.version("horovod")
        == current_recipe(cpu_only=installed_torch().cuda is None).version
    )


def test_a_build_for_cuda_asks_for_nccl_and_for_these_gpus_only() -> None:
    environment = dataclasses.replace(RECIPE, gpu=GPU).environment(jobs=4)
    assert environment["HOROVOD_GPU_OPERATIONS"] == "NCCL"
    assert environment["HOROVOD_NCCL_HOME"] == "/nccl"
    assert environment["HOROVOD_BUILD_CUDA_CC_LIST"] == "80,90"
    assert environment["MAKEFLAGS"] == "-j4"
    assert not any("GPU" in name or "CUDA" in name for name in RECIPE.environment(jobs=1))


def test_architecture_flags_are_what_this_cpu_can_do(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("model name\t: x\nflags\t\t: sse avx avx2 f16c\n")
    assert _architecture_flags(tmp_path / "cpuinfo") == "-mf16c -mavx"
    assert _architecture_flags(tmp_path / "absent") == ""


def test_cmake_files_travel_with_the_package() -> None:
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


# What the machine must have
# ------------------------------------------------------------------------------------------


def fake_toolkit(folder: Path, release: str) -> Path:
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.88'\n")
    nvcc.chmod(0o755)
    (folder / "include").mkdir()
    (folder / "include" / "cuda_runtime.h").touch()
    return folder


def test_an_nvcc_without_its_toolkit_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fake_toolkit(tmp_path / "whole", "13.0")
    (fake_toolkit(tmp_path / "bare", "13.0") / "include" / "cuda_runtime.h").unlink()
    monkeypatch.delenv("HOROVOD_CUDA_HOME", raising=False)
    monkeypatch.setenv("CUDA_PATH", str(whole))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "bare"))
    assert requisites._cuda_home() == whole


def test_a_toolkit_and_nccl_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nccl = tmp_path / "nccl" / "include" / "nccl.h"
    nccl.parent.mkdir(parents=True)
    nccl.write_text("#define NCCL_MAJOR 2\n#define NCCL_VERSION_CODE 22705\n")
    monkeypatch.setenv("HOROVOD_CUDA_HOME", str(fake_toolkit(tmp_path / "cuda", "13.0")))
    monkeypatch.setenv("HOROVOD_NCCL_HOME", str(tmp_path / "nccl"))
    found = find_gpu_tools(TorchBuild("2.13.0+cu130", "13.0", "abc"))
    assert (found.cuda, found.nccl, found.cuda_home) == ("13.0", "22705", tmp_path / "cuda")


def test_a_toolkit_of_another_major_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOROVOD_CUDA_HOME", str(fake_toolkit(tmp_path, "12.6")))
    with pytest.raises(UsageError, match=r"built for CUDA 13\.0, and .* holds CUDA 12\.6"):
        find_gpu_tools(TorchBuild("2.13.0+cu130", "13.0", "abc"))


def test_a_toolkit_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requisites, "_cuda_home", lambda: None)
    with pytest.raises(UsageError, match=r"no CUDA toolkit is found .* or build with --cpu"):
        find_gpu_tools(TorchBuild("2.13.0+cu130", "13.0", "abc"))


def test_a_compiler_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(UsageError, match="no C\\+\\+ compiler 'no-such-compiler -O2'"):
        requisites.check_compiler()


@pytest.mark.parametrize(
    ("version", "wanted"), [("3.18.6", False), ("3.19.0", True), ("4.1.2", True)]
)
def test_a_cmake_that_is_too_old_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, wanted: bool
) -> None:
    cmake = tmp_path / "cmake"
    cmake.write_text(f"#!/bin/sh\necho cmake version {version}\n")
    cmake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert requisites.find_cmake() == (str(cmake) if wanted else None)


# Where wheels are kept
# -----------------------------------------------------------------------------------------------


def test_a_kept_wheel_is_found_again_with_its_facts_and_log(store: WheelStore) -> None:
    store.folder.mkdir()
    assert store.find("k1") is None
    wheel = kept(store, "k1")
    assert store.find("k1") == wheel
    assert store.find("k2") is None
    assert json.loads((wheel.parent / "recipe.json").read_text()) == {"torch": "2.13.0"}
    assert (wheel.parent / "build.log").read_text() == "all is well\n"


def test_a_newer_wheel_replaces_an_older_one_and_no_scrap_stays(store: WheelStore) -> None:
    store.folder.mkdir()
    kept(store, "k1", b"old")
    assert kept(store, "k1", b"new").read_bytes() == b"new"
    assert [path.name for path in store.folder.iterdir()] == ["k1"]


def test_a_failed_build_leaves_its_log_and_nothing_that_looks_like_a_wheel(
    store: WheelStore,
) -> None:
    store.folder.mkdir()

    def fail(folder: Path) -> None:
        (folder / "half.whl").write_bytes(b"")
        (folder / "build.log").write_text("the end\n")
        raise RuntimeError

    with pytest.raises(RuntimeError), store.scratch("k1") as scratch:
        fail(scratch)
    assert store.find("k1") is None
    assert [path.name for path in store.folder.iterdir()] == ["k1.failed.log"]
    assert store.failure_log("k1").read_text() == "the end\n"


def test_one_of_two_builders_builds_and_both_get_the_wheel(
    store: WheelStore, tmp_path: Path
) -> None:
    script = f"""
import sys, time
from pathlib import Path
from pytest_dnnbench.horovod_build import command, steps
from pytest_dnnbench.horovod_build.wheel_store import WheelStore
from tests.horovod.test_build import RECIPE

def build_wheel(recipe, folder, log, *, jobs, sdist):
    with open({str(tmp_path / "builds")!r}, "a") as file:
        file.write("built\\n")
    while sum("waiting for it" in path.read_text() for path in Path({str(tmp_path)!r}).glob("said*")) < 2:
        time.sleep(0.01)
    (folder / "horovod-0.whl").write_text("whole")
    log.path.write_text("log")
    return folder / "horovod-0.whl"

steps.build_wheel = build_wheel
print(command.wheel_for(RECIPE, WheelStore(Path({str(store.folder)!r})), jobs=1).read_text())
"""
    said = [tmp_path / f"said{number}" for number in range(3)]
    builders = []
    for path in said:
        with path.open("w") as output:
            builders.append(subprocess.Popen([sys.executable, "-c", script], stdout=output))
    assert [builder.wait(120) for builder in builders] == [0, 0, 0]
    answers = [path.read_text() for path in said]
    assert all(answer.splitlines()[-1] == "whole" for answer in answers)
    assert (tmp_path / "builds").read_text() == "built\n"
    assert sum("waiting for it" in answer for answer in answers) == 2


def test_a_builder_that_died_does_not_block_the_next(store: WheelStore) -> None:
    store.folder.mkdir()
    with (store.folder / "k1.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    (store.folder / "k1.building-x1").mkdir()
    (store.folder / "k2.building-x2").mkdir()
    with store.turn("k1", lambda: pytest.fail("nobody builds")):
        assert not (store.folder / "k1.building-x1").exists(), "its scraps are swept"
        assert (store.folder / "k2.building-x2").exists(), "another key may be at work"


# What a failure says
# -------------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> BuildLog:
    return BuildLog(tmp_path / "build.log", tmp_path / "kept.log", lambda _: None)


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        ("g++: fatal error: Killed signal terminated program cc1plus", "use --jobs 1"),
        ("c++: error: unrecognized command-line option '-std=c++20'", "too old for C++20"),
        ("x.cc:1: fatal error: Python.h: No such file or directory", "python3-dev"),
        ("ERROR: No matching distribution found for horovod==0.28.1", "--sdist"),
        ("  Could NOT find NCCL (missing: NCCL_LIBRARY)", "HOROVOD_NCCL_HOME"),
        ("write failed: No space left on device", "the disk is full"),
    ],
)
def test_a_failed_step_names_itself_its_likely_cause_and_the_log(
    log: BuildLog, output: str, cause: str
) -> None:
    with pytest.raises(BuildError) as caught:
        log.run("compile", [sys.executable, "-c", f"print({output!r}); raise SystemExit(3)"])
    text = str(caught.value)
    assert "step 'compile' ended with status 3" in text
    assert cause in text.partition("likely")[2].partition("Everything it said")[0]
    assert text.endswith("kept.log")
    assert "rror" not in output or output in text.partition("likely")[0], (
        "the telling line is shown"
    )
    assert output in log.path.read_text()
    assert "\n" not in text


def test_what_cmake_says_is_shown_and_harmless_mentions_are_no_cause(log: BuildLog) -> None:
    output = "-- Found NCCL: nccl.h CUDAToolkit\nCMake Error at CMakeLists.txt:21 (message):\n    It does not\n    fit.\n"
    text = str(log.failure("compile", "ended with status 1", output))
    assert "(CMake Error at CMakeLists.txt:21 (message): It does not)" in text
    assert "usual causes:" in text


def test_a_failure_without_a_known_cause_lists_the_usual_ones(log: BuildLog) -> None:
    with pytest.raises(BuildError, match=r"usual causes: .*memory .*a full disk"):
        log.run("compile", [sys.executable, "-c", "raise SystemExit(1)"])


def test_a_source_other_than_horovods_is_refused_before_it_is_run(
    store: WheelStore, tmp_path: Path
) -> None:
    other = tmp_path / "horovod-0.28.1.tar.gz"
    other.write_bytes(b"not it")
    with pytest.raises(BuildError, match=hashlib.sha256(b"not it").hexdigest()):
        wheel_for(RECIPE, store, jobs=1, sdist=other)
    assert store.find(RECIPE.key) is None


@pytest.mark.parametrize(
    ("available_kb", "jobs"),
    [(100, 1), (2_600_000, 1), (1_000_000_000, len(os.sched_getaffinity(0)))],
)
def test_compilations_are_as_many_as_memory_allows(
    tmp_path: Path, available_kb: int, jobs: int
) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:   {available_kb} kB\n")
    assert steps.default_jobs(tmp_path / "meminfo") == jobs


def test_progress_is_said_now_and_then(tmp_path: Path) -> None:
    said: list[str] = []
    script = "for percent in range(0, 101, 5): print(f'  [{percent:3}%] Building CXX object')"
    BuildLog(tmp_path / "log", tmp_path / "log", said.append).run(
        "compile", [sys.executable, "-c", script]
    )
    assert [line.split(" %")[0].strip() for line in said[:-1]] == ["20", "40", "60", "80", "100"]


# The command
# ---------------------------------------------------------------------------------------------------------


def test_nothing_is_done_when_the_right_horovod_is_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command.main(["--check"]) == 0
    assert command.main([]) == 0
    assert capsys.readouterr().out.count("is installed.") == 2


def test_check_says_what_to_run_when_it_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "installed_version", lambda: None)
    assert command.main(["--check"]) == 1
    assert "run `dnnbench horovod`" in capsys.readouterr().out


def test_a_horovod_of_other_means_that_loads_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(command, "installed_version", lambda: "0.28.1")
    assert command.main([]) == 0
    assert "loads and stays (gloo True" in capsys.readouterr().out


def test_a_horovod_that_does_not_load_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(command, "installed_version", lambda: "0.28.1")
    monkeypatch.setattr(steps, "CHECK", "import horovod.no_such_module")
    with pytest.raises(BuildError, match="does not load: replace it with --force"):
        command.main([])
