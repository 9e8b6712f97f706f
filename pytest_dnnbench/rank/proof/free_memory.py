"""The memory that a rank can still have: of its GPU, or of the machine, within the limits of its
control groups and of its process."""

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

from pytest_dnnbench.proc import control_groups


def free_bytes(
    device: torch.device, proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Bytes that can be had where a rank on this device keeps its tensors; None where nobody says.

    On a GPU: what is free there, and what this process holds and does not use. On the host: the
    least of the kernel's MemAvailable, of what each control group (version 2) above this process
    allows and does not need, and of the limit of its address space; what can be swapped out comes
    on top of the first two.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    room = [*_of_machine(proc), *_of_groups(proc, groups), *_of_process(proc)]
    return min(room, default=None)


def _of_machine(proc: Path) -> Iterator[int]:
    with suppress(OSError, KeyError, ValueError):
        yield _meminfo(proc, "MemAvailable") + _meminfo(proc, "SwapFree")


def _meminfo(proc: Path, key: str) -> int:
    """A line of /proc/meminfo, in bytes."""
    lines = (proc / "meminfo").read_text().splitlines()
    return int({line.split(":")[0]: line.split()[1] for line in lines}[key]) * 1024


def _of_groups(proc: Path, root: Path) -> Iterator[int]:
    """Of each level of the group that has a limit."""
    group = control_groups(proc / "self/cgroup").get("")
    if group is None:
        return
    folder = root / group.strip("/")
    for level in (folder, *folder.parents):
        if not level.is_relative_to(root):
            return
        # A level without a limit says "max", which is no number.
        with suppress(OSError, ValueError):
            limit = int((level / "memory.max").read_text())
            used = int((level / "memory.current").read_text())
            yield limit - used + _reclaimable(level) + _swappable(level, proc)


def _reclaimable(level: Path) -> int:
    """Bytes of files, which the kernel drops before it lets a group run out."""
    with suppress(OSError, ValueError):
        lines = (level / "memory.stat").read_text().splitlines()
        values = dict(line.split() for line in lines)
        return int(values.get("active_file", 0)) + int(values.get("inactive_file", 0))
    return 0


def _swappable(level: Path, proc: Path) -> int:
    """Bytes of swap that a group may still take. Unlimited swap is that of the machine."""
    with suppress(OSError, KeyError, ValueError):
        limit = (level / "memory.swap.max").read_text().strip()
        if limit == "max":
            return _meminfo(proc, "SwapFree")
        return max(0, int(limit) - int((level / "memory.swap.current").read_text()))
    return 0


def _of_process(proc: Path) -> Iterator[int]:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        with suppress(OSError, ValueError):
            pages = int((proc / "self/statm").read_text().split()[0])
            yield limit - pages * os.sysconf("SC_PAGE_SIZE")
