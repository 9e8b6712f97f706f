"""What a build needs of the machine: torch, a compiler, Python's headers; for GPUs also a CUDA
toolkit and NCCL.

Found without importing torch. Whatever is missing is reported before anything slow starts.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from pytest_dnnbench.controller.nvml import NvmlUnavailable, gpu_handles, nvml
from pytest_dnnbench.controller.torch_build import TorchBuild, installed_torch
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.starting import started

OLDEST_CMAKE = (3, 19)
"""The first with deferred calls, which cmake/project.cmake needs."""

USUAL_CUDA_HOME = Path("/usr/local/cuda")
"""Where the CUDA toolkit is installed if the user did not choose another folder."""


@dataclass(frozen=True, slots=True)
class GpuTools:
    """What a build with GPU operations needs: the folders of the CUDA toolkit and of NCCL, their
    versions, and the compute capabilities of the GPUs to build for."""

    cuda_home: Path
    cuda: str
    nccl_home: Path
    nccl: str
    compute_capabilities: tuple[int, ...]


def torch_to_build_against() -> TorchBuild:
    """The installed torch. Raises UsageError without torch."""
    torch = installed_torch()
    if torch is None:
        raise UsageError(
            "Horovod is built against torch, which is not installed: install torch first"
        )
    return torch


def check_compiler() -> None:
    """Raises UsageError without a C++ compiler or Python's headers."""
    compiler = os.environ.get("CXX") or "c++"
    if shutil.which(compiler.split()[0]) is None:
        raise UsageError(
            f"no C++ compiler {compiler!r}: install one for C++20 (apt: g++; dnf: gcc-c++)"
            " or set CXX"
        )
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.exists():
        raise UsageError(
            f"{header} does not exist: install Python's headers"
            " (apt: python3-dev; dnf: python3-devel)"
        )


def find_cmake() -> str | None:
    """The CMake on the path; None if it is missing or too old."""
    path = shutil.which("cmake")
    if path is None:
        return None
    version = re.search(r"version (\d+)\.(\d+)", _version_text(path))
    new_enough = version is not None and (int(version[1]), int(version[2])) >= OLDEST_CMAKE
    return path if new_enough else None


def find_gpu_tools(torch: TorchBuild, usual_home: Path = USUAL_CUDA_HOME) -> GpuTools:
    """The tools for a torch with CUDA. Raises UsageError naming what is missing."""
    cuda_home = _cuda_home(usual_home)
    if cuda_home is None:
        raise UsageError(
            f"torch {torch.version} is built for CUDA {torch.cuda}, and no CUDA toolkit is found"
            " (nvcc, headers): install it or set CUDA_HOME, or build with --cpu for CPU ranks only"
        )
    cuda = _cuda_version(cuda_home)
    if torch.cuda is None or cuda.split(".")[0] != torch.cuda.split(".")[0]:
        raise UsageError(
            f"torch {torch.version} is built for CUDA {torch.cuda}, and {cuda_home} holds CUDA"
            f" {cuda}: set CUDA_HOME to a toolkit of the same major version, or build with --cpu"
        )
    nccl_home = _nccl_home()
    return GpuTools(cuda_home, cuda, nccl_home, _nccl_version(nccl_home), _compute_capabilities())


def _version_text(program: str) -> str:
    command = [program, "--version"]
    return started(
        lambda: subprocess.run(command, capture_output=True, text=True, check=False)
    ).stdout


def _cuda_home(usual_home: Path) -> Path | None:
    named = [os.environ.get(name) for name in ("HOROVOD_CUDA_HOME", "CUDA_HOME", "CUDA_PATH")]
    on_path = shutil.which("nvcc")
    candidates = [Path(home) for home in named if home]
    candidates += [Path(on_path).resolve().parent.parent] if on_path else []
    candidates += [usual_home]
    return next((home for home in candidates if _is_toolkit(home)), None)


def _is_toolkit(home: Path) -> bool:
    """Whether compiler and headers are there: an nvcc on the path may come without the rest."""
    return (home / "bin" / "nvcc").exists() and (home / "include" / "cuda_runtime.h").exists()


def _cuda_version(home: Path) -> str:
    release = re.search(r"release (\d+\.\d+)", _version_text(str(home / "bin" / "nvcc")))
    if release is None:
        raise UsageError(
            f"{home}/bin/nvcc does not print its version: repair the toolkit or set CUDA_HOME to"
            " another"
        )
    return release[1]


def _nccl_home() -> Path:
    """The NCCL that torch itself uses, so that one process holds one NCCL."""
    if named := os.environ.get("HOROVOD_NCCL_HOME"):
        return Path(named)
    try:
        package = importlib.util.find_spec("nvidia.nccl")
    except ModuleNotFoundError:
        package = None
    folders = list(package.submodule_search_locations or ()) if package else []
    if not folders:
        raise UsageError(
            "NCCL's Python package (nvidia/nccl), which torch with CUDA brings, is not installed:"
            " set HOROVOD_NCCL_HOME to the folder that holds NCCL's include and lib"
        )
    return Path(folders[0])


def _nccl_version(home: Path) -> str:
    header = home / "include" / "nccl.h"
    code = (
        re.search(r"#define\s+NCCL_VERSION_CODE\s+(\d+)", header.read_text())
        if header.exists()
        else None
    )
    if code is None:
        raise UsageError(
            f"{header} is missing or holds no version: set HOROVOD_NCCL_HOME to NCCL's folder"
        )
    return code[1]


def _compute_capabilities() -> tuple[int, ...]:
    """Those of this machine's GPUs (90 for 9.0); empty without a GPU: Horovod then builds for all
    that nvcc supports."""
    try:
        with nvml() as library:
            pairs = [
                library.nvmlDeviceGetCudaComputeCapability(handle)
                for handle in gpu_handles(library)
            ]
    except NvmlUnavailable:
        return ()
    return tuple(sorted({10 * major + minor for major, minor in pairs}))
