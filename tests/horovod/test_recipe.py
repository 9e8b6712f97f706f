"""What a wheel depends on, and the key and the version made of it."""

import dataclasses
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

from pytest_dnnbench.controller.torch_build import TorchBuild, installed_torch
from pytest_dnnbench.horovod_build.recipe import _architecture_flags, current_recipe
from tests.horovod import recipes


@pytest.mark.parametrize(
    "change",
    [
        {"torch": TorchBuild("2.13.1+cpu", None, "abc")},
        {"torch": TorchBuild("2.13.0+cpu", None, "abd")},
        {"gpu": recipes.GPU_TOOLS},
        {"python": ".cpython-312-x86_64-linux-gnu.so"},
        {"platform": "linux-aarch64"},
        {"architecture_flags": ""},
        {"user_flags": "-O3"},
        {"cmake_digest": "0124"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_makes_wheels_differ_makes_their_keys_differ(change: dict[str, object]) -> None:
    changed = dataclasses.replace(recipes.CPU, **change)  # type: ignore[arg-type] # one field each
    assert changed.key != recipes.CPU.key


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


def test_the_version_is_one_that_pip_accepts_and_names_torch() -> None:
    version = Version(recipes.CPU.version)
    assert version.public == "0.28.1"
    assert version.local == f"torch2.13.0.cpu.{recipes.CPU.key}"


def test_the_installed_horovod_is_the_one_that_fits() -> None:
    torch = installed_torch()
    assert torch is not None
    recipe = current_recipe(cpu_only=torch.cuda is None)
    assert importlib.metadata.version("horovod") == recipe.version


def test_the_users_flags_are_part_of_the_recipe() -> None:
    flags = {"CXX": "clang++", "CXXFLAGS": "-O1", "HOROVOD_BUILD_ARCH_FLAGS": "-march=native"}
    recipe = current_recipe(cpu_only=True, environment=flags)
    assert recipe.architecture_flags == "-march=native"
    assert recipe.user_flags.split() == ["clang++", "-O1"]


def test_architecture_flags_are_those_of_this_cpus_features(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("model name\t: x\nflags\t\t: sse avx avx2 f16c\n")
    assert _architecture_flags(tmp_path / "cpuinfo") == "-mf16c -mavx"
    assert _architecture_flags(tmp_path / "absent") == ""
