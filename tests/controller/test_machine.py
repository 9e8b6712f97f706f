"""The devices of a machine: GPUs as NVML gives them, cores as the kernel allows. Nothing imports
torch."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_dnnbench.controller.machine import Gpu, Machine, cpu_quota, detect, usable_cores
from pytest_dnnbench.controller.nvml import close_nvml, nvml
from pytest_dnnbench.controller.torch_build import TorchBuild, installed_torch
from pytest_dnnbench.errors import UsageError
from tests.controller.fake_nvml import FakeNvml


@pytest.fixture
def torch_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed torch that was built for CUDA, and every GPU visible."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    build = TorchBuild("2.13.0+cu130", "13.0", "abc")
    monkeypatch.setattr("pytest_dnnbench.controller.machine.installed_torch", lambda: build)


def two_gpus() -> FakeNvml:
    return FakeNvml("GPU-a", "GPU-b", Name=lambda _: "H100")


@pytest.mark.usefixtures("torch_for_cuda")
def test_gpus_are_detected_in_the_order_of_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    library = two_gpus()
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    machine = detect("auto")
    assert machine.gpus == (Gpu("H100", "GPU-b"), Gpu("H100", "GPU-a"))
    assert (machine.kind, machine.driver, machine.default_count) == ("cuda", "550.1", 2)
    assert machine.describe().startswith("2 x H100, driver 550.1, ")
    assert library.is_open, "for the session"


@pytest.mark.usefixtures("torch_for_cuda")
def test_what_is_set_on_a_gpu_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeNvml(
        "GPU-a",
        Name=lambda _: "H100",
        PowerManagementLimit=lambda _: 650_000,
        EccMode=lambda _: (1, 1),
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert detect("cuda").gpus[0].settings == (("power_limit_w", 650.0), ("ecc", True))


@pytest.mark.usefixtures("torch_for_cuda")
def test_cuda_that_is_not_possible_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(driver=None))
    with pytest.raises(UsageError, match=r"no NVIDIA driver answers \(Driver Not Loaded\)"):
        detect("cuda")
    assert detect("auto").kind == "cpu"
    monkeypatch.setitem(sys.modules, "pynvml", two_gpus())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UsageError, match="CUDA_VISIBLE_DEVICES='' hides every GPU"):
        detect("cuda")


@pytest.mark.usefixtures("torch_for_cuda")
def test_mps_and_a_compute_mode_are_settings_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = FakeNvml("GPU-a", Name=lambda _: "H100", ComputeMode=lambda _: 3)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert detect("cuda").gpus[0].settings == (("compute_mode", "exclusive process"),)
    (tmp_path / "control").touch()
    library.nvmlDeviceGetComputeMode = lambda _: 0
    assert detect("cuda").gpus[0].settings == (("mps", True),)
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "x" * 300)  # a path that no kernel looks up
    assert detect("cuda").gpus[0].settings == ()


@pytest.mark.usefixtures("torch_for_cuda")
def test_a_gpu_that_may_not_be_used_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML counts it and CUDA does not number it; pytest ended in INTERNALERROR."""
    library = FakeNvml("GPU-a", "GPU-b", closed=("GPU-a",), Name=lambda _: "H100")
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert detect("cuda").gpus == (Gpu("H100", "GPU-b"),)
    library.closed = ("GPU-a", "GPU-b")
    with pytest.raises(UsageError, match=r"NVML opens no GPU \(GPU 0: Insuff.*; GPU 1: Insuff"):
        detect("cuda")
    assert detect("auto").kind == "cpu"


@pytest.mark.usefixtures("torch_for_cuda")
def test_a_lost_gpu_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    library = two_gpus()

    def name(gpu: str) -> str:
        if gpu == "GPU-a":
            raise library.NVMLError("GPU is lost")
        return "H100"

    library.nvmlDeviceGetName = name
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert detect("cuda").gpus == (Gpu("H100", "GPU-b"),)


@pytest.mark.usefixtures("torch_for_cuda")
def test_a_slice_is_leased_as_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list ended at a MIG entry, and `auto` measured the CPU."""
    library = FakeNvml(
        "GPU-a",
        "MIG-1",
        Name=lambda _: "H100",
        MigMode=lambda gpu: [int(gpu == "GPU-a"), 1],
        DeviceHandleFromMigDeviceHandle=lambda _: "GPU-a",
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1,MIG-2")
    assert detect("auto").gpus == (Gpu("H100", "GPU-a", sliced=True),)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-9")
    with pytest.raises(UsageError, match=r"NVML does not know .* MIG-9 \(Not Found\)"):
        detect("cuda")


@pytest.mark.usefixtures("torch_for_cuda")
def test_a_gpu_that_is_named_twice_hides_all_as_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", two_gpus())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,0")
    with pytest.raises(UsageError, match="'0,0' hides every GPU, for it names one twice"):
        detect("cuda")


@pytest.mark.usefixtures("torch_for_cuda")
def test_the_cores_near_a_gpu_are_those_of_nvml_that_are_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = two_gpus()
    masks = {"GPU-a": [0b0110, 0b1], "GPU-b": [0b11000, 0b10]}
    library.nvmlDeviceGetCpuAffinity = lambda gpu, words: masks[gpu][:words]
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 64, 65})
    assert [gpu.cores for gpu in detect("cuda").gpus] == [(1, 2, 64), (3, 65)]


def test_nvml_is_opened_once_for_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    library = two_gpus()
    monkeypatch.setitem(sys.modules, "pynvml", library)
    for _ in range(3):
        with nvml() as answering:
            assert answering is library
    assert (library.inits, library.is_open) == (1, True)
    close_nvml()
    assert not library.is_open
    close_nvml()
    with nvml():
        assert library.inits == 2


def test_asked_for_the_cpu_nvml_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert detect("cpu").kind == "cpu"


def test_the_build_of_torch_is_read_without_importing_it() -> None:
    build = installed_torch()
    assert build is not None
    assert build.version == importlib.metadata.version("torch")
    script = (
        "import sys\n"
        "from pytest_dnnbench.controller.torch_build import installed_torch\n"
        "installed_torch(); print('torch' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "False"


def test_ranks_that_find_no_gpu_or_no_memory_are_a_shortage() -> None:
    two = (Gpu("H100", "GPU-a"), Gpu("H100", "GPU-b"))
    machine = Machine("cuda", two, "550.1", cores=8, cpu="", why="", ranks_per_gpu=2)
    assert machine.shortage(4) is None
    assert machine.shortage(5) == "3 GPUs needed and 2 here"
    without_gpus = Machine("cpu", (), None, cores=2, cpu="", why="", memory_bytes=2 * 1024**3)
    assert without_gpus.shortage(2) is None
    refusal = without_gpus.shortage(1000)
    assert refusal is not None
    assert refusal.startswith("1000 CPU ranks need ")
    assert refusal.endswith(" GiB of memory at least, and this machine has 2")


def test_a_quota_bounds_the_usable_cores() -> None:
    assert [usable_cores(8, quota) for quota in (None, 2.5, 0.5, 64.0)] == [8, 2, 1, 8]


def test_the_quota_is_the_smallest_of_the_control_group_and_its_parents(tmp_path: Path) -> None:
    group = tmp_path / "cgroup" / "pod" / "job"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text("max 100000\n")
    (group.parent / "cpu.max").write_text("250000 100000\n")
    membership = tmp_path / "membership"
    membership.write_text("0::/pod/job\n")
    assert cpu_quota(tmp_path / "cgroup", membership) == 2.5
    membership.write_text("0::/\n")
    assert cpu_quota(tmp_path / "cgroup", membership) is None
    assert cpu_quota(tmp_path / "cgroup", tmp_path / "absent") is None
