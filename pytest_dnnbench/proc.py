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


def control_groups(membership: Path = Path("/proc/self/cgroup")) -> dict[str, str]:
    """The path of a process's control group, by controller; "" is the one group of version 2.

    `membership` is the process's file in /proc. Empty where the process is gone.
    """
    groups: dict[str, str] = {}
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            groups |= dict.fromkeys(controllers.split(","), group)
    return groups
