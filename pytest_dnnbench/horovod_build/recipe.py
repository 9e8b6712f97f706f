"""What a Horovod wheel depends on: all that makes two wheels differ, the key made of it, and the
settings of the build."""

import hashlib
import json
import os
import sysconfig
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pytest_dnnbench.controller.torch_build import TorchBuild
from pytest_dnnbench.horovod_build.requisites import (
    GpuTools,
    find_gpu_tools,
    torch_to_build_against,
)

HOROVOD_VERSION = "0.28.1"
SDIST_SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"
CMAKE_FOLDER = Path(__file__).parent / "cmake"

_ARCHITECTURE_FLAGS = {"f16c": "-mf16c", "avx": "-mavx", "fma": "-mfma"}
"""The flags that Horovod uses (for fp16 sums and Adasum), by the kernel's name of the CPU feature
that each needs."""

_KEY_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one wheel is built from. `gpu` is None for a build without GPU operations."""

    torch: TorchBuild
    gpu: GpuTools | None
    python: str
    platform: str
    architecture_flags: str
    user_flags: str
    cmake_digest: str

    @property
    def facts(self) -> dict[str, object]:
        """All that the wheel depends on, as plain JSON data."""
        return {
            "horovod": HOROVOD_VERSION,
            "sdist_sha256": SDIST_SHA256,
            **json.loads(json.dumps(asdict(self), default=str)),
        }

    @property
    def key(self) -> str:
        """A short digest of the facts: two environments with the same key can use the same
        wheel."""
        text = json.dumps(self.facts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS]

    @property
    def local_version(self) -> str:
        """What distinguishes this wheel from others of the same release: the installed package has
        version `0.28.1+LOCAL`."""
        return f"torch{self.torch.version.replace('+', '.')}.{self.key}"

    @property
    def version(self) -> str:
        """The version of the installed package."""
        return f"{HOROVOD_VERSION}+{self.local_version}"

    def environment(self, jobs: int) -> dict[str, str]:
        """The variables that Horovod's build reads, for `jobs` compilations at a time."""
        settings = {
            "CMAKE_TOOLCHAIN_FILE": str(CMAKE_FOLDER / "toolchain.cmake"),
            "HOROVOD_LOCAL_VERSION": self.local_version,
            "HOROVOD_WITH_PYTORCH": "1",
            "HOROVOD_WITHOUT_TENSORFLOW": "1",
            "HOROVOD_WITHOUT_MXNET": "1",
            "HOROVOD_WITH_GLOO": "1",
            "HOROVOD_WITHOUT_MPI": "1",
            "HOROVOD_WITHOUT_NVTX": "1",
            "MAKEFLAGS": f"-j{jobs}",
        }
        if self.architecture_flags:
            settings["HOROVOD_BUILD_ARCH_FLAGS"] = self.architecture_flags
        return settings | (_gpu_settings(self.gpu) if self.gpu else {})


def current_recipe(*, cpu_only: bool, environment: Mapping[str, str] = os.environ) -> Recipe:
    """The recipe for this interpreter and machine. Raises UsageError when torch, or a tool for its
    CUDA, is missing."""
    torch = torch_to_build_against()
    return Recipe(
        torch=torch,
        gpu=None if cpu_only or torch.cuda is None else find_gpu_tools(torch),
        python=str(sysconfig.get_config_var("EXT_SUFFIX")),
        platform=sysconfig.get_platform(),
        architecture_flags=environment.get("HOROVOD_BUILD_ARCH_FLAGS", _architecture_flags()),
        user_flags=" ".join(
            environment.get(name, "") for name in ("CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS")
        ).strip(),
        cmake_digest=_digest_of(CMAKE_FOLDER),
    )


def _gpu_settings(gpu: GpuTools) -> dict[str, str]:
    settings = {
        "HOROVOD_GPU": "CUDA",
        "HOROVOD_GPU_OPERATIONS": "NCCL",
        "HOROVOD_NCCL_HOME": str(gpu.nccl_home),
        "HOROVOD_NCCL_LINK": "SHARED",
        "HOROVOD_CUDA_HOME": str(gpu.cuda_home),
        "CUDA_HOME": str(gpu.cuda_home),
    }
    if gpu.compute_capabilities:
        settings["HOROVOD_BUILD_CUDA_CC_LIST"] = ",".join(map(str, gpu.compute_capabilities))
    return settings


def _architecture_flags(cpu_info: Path = Path("/proc/cpuinfo")) -> str:
    text = cpu_info.read_text() if cpu_info.exists() else ""
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return " ".join(
        flag for feature, flag in _ARCHITECTURE_FLAGS.items() if feature in line.split()
    )


def _digest_of(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return digest.hexdigest()
