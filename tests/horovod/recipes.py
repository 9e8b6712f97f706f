"""Recipes of wheels for tests: of a CPU build and of a build for CUDA."""

import dataclasses
from pathlib import Path

from pytest_dnnbench.controller.torch_build import TorchBuild
from pytest_dnnbench.horovod_build.recipe import Recipe
from pytest_dnnbench.horovod_build.requisites import GpuTools

CPU = Recipe(
    torch=TorchBuild("2.13.0+cpu", None, "abc"),
    gpu=None,
    python=".cpython-311-x86_64-linux-gnu.so",
    platform="linux-x86_64",
    architecture_flags="-mavx",
    user_flags="",
    cmake_digest="0123",
)
GPU_TOOLS = GpuTools(Path("/cuda"), "13.0", Path("/nccl"), "22705", (80, 90))
CUDA = dataclasses.replace(CPU, gpu=GPU_TOOLS)
