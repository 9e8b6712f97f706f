"""What Linux reports under /proc, of the processor and of processes. A leaf: imports nothing of
ours."""

import platform
from contextlib import suppress
from pathlib import Path


def cpu_model() -> str:
    """The processor's name as Linux gives it, or else its architecture."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    return platform.machine()


def process_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, the state first. Raises OSError if the process
    is gone."""
    # The name is in brackets and may hold blanks and brackets itself.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal or a debugger; False if it is gone."""
    with suppress(OSError, IndexError):
        return process_fields(pid)[0] in ("T", "t")
    return False


def has_ended(pid: int) -> bool:
    """Whether a process has ended, though its parent may not have taken note of it."""
    with suppress(OSError, IndexError):
        return process_fields(pid)[0] in ("Z", "X")
    return True


def children_of(pid: int) -> list[int]:
    """The process ids of a process's children; empty if it is gone."""
    children: list[int] = []
    with suppress(OSError):
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            children += map(int, path.read_text().split())
    return children


def descendants_of(pid: int) -> list[int]:
    """The process ids of a process's children, of theirs, and so on; parents come first."""
    descendants: list[int] = []
    for child in children_of(pid):
        descendants += [child, *descendants_of(child)]
    return descendants


def control_groups(membership: Path) -> dict[str, str]:
    """The path of a process's control group, by controller; "" is the one group of version 2.

    `membership` is the process's file in /proc. Empty where the process is gone.
    """
    groups: dict[str, str] = {}
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            groups |= dict.fromkeys(controllers.split(","), group)
    return groups
