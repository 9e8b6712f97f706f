"""The memory that a rank can have is the least of what machine, control groups and process
allow."""

from pathlib import Path

import pytest
import torch

from pytest_dnnbench.rank.proof.free_memory import free_bytes

CPU = torch.device("cpu")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc of a machine with 8 GiB available, 1 GiB of swap, and a process in /a/b."""
    folder = tmp_path / "proc"
    (folder / "self").mkdir(parents=True)
    (folder / "meminfo").write_text("MemAvailable: 8388608 kB\nSwapFree: 1048576 kB\n")
    (folder / "self/cgroup").write_text("0::/a/b\n")
    return folder


def limit(folder: Path, **files: int | str) -> None:
    """Writes a control group's files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("_", ".", 1)).write_text(f"{value}\n")


def test_without_limits_it_is_what_the_kernel_calls_available(proc: Path, tmp_path: Path) -> None:
    assert free_bytes(CPU, proc, tmp_path / "none") == 9 << 30


def test_a_control_group_above_limits_it_but_for_its_files(proc: Path, tmp_path: Path) -> None:
    groups = tmp_path / "cgroup"
    limit(groups / "a/b", memory_max="max", memory_current=5)
    limit(groups / "a", memory_max=4 << 30, memory_current=3 << 30)
    assert free_bytes(CPU, proc, groups) == 1 << 30
    (groups / "a/memory.stat").write_text(f"anon 7\nactive_file {1 << 29}\ninactive_file 0\n")
    assert free_bytes(CPU, proc, groups) == 3 << 29


def test_a_groups_swap_counts(proc: Path, tmp_path: Path) -> None:
    groups = tmp_path / "cgroup"
    limit(groups / "a", memory_max=4 << 30, memory_current=3 << 30)
    (groups / "a/memory.swap.max").write_text("max\n")
    assert free_bytes(CPU, proc, groups) == 2 << 30
    (groups / "a/memory.swap.max").write_text(f"{1 << 29}\n")
    (groups / "a/memory.swap.current").write_text("0\n")
    assert free_bytes(CPU, proc, groups) == 3 << 29


def test_where_nobody_says_it_is_not_known(tmp_path: Path) -> None:
    assert free_bytes(CPU, tmp_path / "proc", tmp_path / "cgroup") is None


def test_of_a_gpu_it_is_what_is_free_there_and_what_this_process_does_not_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20)
    assert free_bytes(torch.device("cuda:0")) == 130
