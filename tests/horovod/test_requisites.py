"""What the machine must have for a build is found, and reported where it is missing. Tools are
small scripts on the path."""

import os
import sys
from pathlib import Path

import pytest

from pytest_dnnbench.controller.torch_build import TorchBuild
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.horovod_build.requisites import check_compiler, find_cmake, find_gpu_tools
from tests.controller.fake_nvml import FakeNvml

TORCH = TorchBuild("2.13.0+cu130", "13.0", "abc")


@pytest.fixture(autouse=True)
def _no_cuda_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No folder of CUDA or NCCL is named, and no nvcc is on the path."""
    for name in ("HOROVOD_CUDA_HOME", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOROVOD_NCCL_HOME", str(nccl(tmp_path / "nccl")))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(driver=None))


def nccl(folder: Path) -> Path:
    header = folder / "include" / "nccl.h"
    header.parent.mkdir(parents=True)
    header.write_text("#define NCCL_MAJOR 2\n#define NCCL_VERSION_CODE 22705\n")
    return folder


def toolkit(folder: Path, release: str) -> Path:
    """A CUDA toolkit whose nvcc prints its release."""
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.88'\n")
    nvcc.chmod(0o755)
    (folder / "include").mkdir()
    (folder / "include" / "cuda_runtime.h").touch()
    return folder


def test_toolkit_nccl_and_gpus_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "cuda", "13.0")))
    library = FakeNvml("GPU-a", "GPU-b", "GPU-c")
    library.nvmlDeviceGetCudaComputeCapability = lambda gpu: (8, 0) if gpu == "GPU-b" else (9, 0)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    tools = find_gpu_tools(TORCH)
    assert (tools.cuda_home, tools.cuda, tools.nccl) == (tmp_path / "cuda", "13.0", "22705")
    assert tools.compute_capabilities == (80, 90)


def test_a_toolkit_in_the_usual_place_is_found_and_without_gpus_none_are_named(
    tmp_path: Path,
) -> None:
    tools = find_gpu_tools(TORCH, toolkit(tmp_path / "cuda", "13.0"))
    assert (tools.cuda_home, tools.compute_capabilities) == (tmp_path / "cuda", ())


def test_an_nvcc_without_its_toolkit_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, bare = toolkit(tmp_path / "whole", "13.0"), toolkit(tmp_path / "bare", "13.0")
    (bare / "include" / "cuda_runtime.h").unlink()
    monkeypatch.setenv("CUDA_HOME", str(bare))
    monkeypatch.setenv("CUDA_PATH", str(whole))
    assert find_gpu_tools(TORCH).cuda_home == whole


def test_a_toolkit_of_another_major_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"built for CUDA 13\.0, and .* holds CUDA 12\.6"):
        find_gpu_tools(TORCH, toolkit(tmp_path / "cuda", "12.6"))


def test_a_missing_toolkit_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no CUDA toolkit is found .* or build with --cpu"):
        find_gpu_tools(TORCH, tmp_path / "absent")


def test_an_nccl_without_its_header_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOROVOD_NCCL_HOME", str(tmp_path / "empty"))
    with pytest.raises(UsageError, match=r"nccl\.h is missing or holds no version"):
        find_gpu_tools(TORCH, toolkit(tmp_path / "cuda", "13.0"))


def test_a_missing_compiler_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(UsageError, match="no C\\+\\+ compiler 'no-such-compiler -O2'"):
        check_compiler()


@pytest.mark.parametrize(
    ("version", "accepted"), [("3.18.6", False), ("3.19.0", True), ("4.1.2", True)]
)
def test_a_cmake_that_is_too_old_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, accepted: bool
) -> None:
    cmake = tmp_path / "cmake"
    cmake.write_text(f"#!/bin/sh\necho cmake version {version}\n")
    cmake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert find_cmake() == (str(cmake) if accepted else None)
