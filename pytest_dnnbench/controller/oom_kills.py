"""How often the kernel has killed a process of a control group for lack of memory: what makes a
SIGKILL explainable.

Read before and after a launch. Version 2 of the control groups counts in `memory.events`, version 1
in `memory.oom_control`; where neither can be read the count is None and nothing is claimed.
"""

from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def oom_kills(
    pid: int | str = "self", root: Path = _ROOT, proc: Path = Path("/proc")
) -> int | None:
    """The count of the group that the process is in, and of those below it."""
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            files = [root / group.lstrip("/") / "memory.events"]
        elif "memory" in controllers.split(","):
            at = root / "memory"
            files = [at / group.lstrip("/") / "memory.oom_control", at / "memory.oom_control"]
        else:
            continue
        for file in files:
            if (count := _count(file)) is not None:
                return count
    return None


def _count(file: Path) -> int | None:
    try:
        fields = dict(line.split() for line in file.read_text().splitlines())
        return int(fields["oom_kill"])
    except (OSError, KeyError, ValueError):
        return None
