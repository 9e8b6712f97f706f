"""What Linux tells of the processor and of processes under /proc. A leaf: imports nothing of ours."""

import platform
from contextlib import suppress
from pathlib import Path


def cpu_model() -> str:
    """The processor's name as Linux gives it, or its architecture."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    return platform.machine()


def process_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, the state first. Raises OSError when the process
    is gone."""
    # The name is in brackets and may hold blanks and brackets itself.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
