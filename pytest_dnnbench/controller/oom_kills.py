"""How many processes of a control group the kernel has killed because memory ran out: this explains
a SIGKILL.

Version 2 of the control groups counts in `memory.events`, version 1 in `memory.oom_control`. Where
neither can be read the count is None, and no kill is attributed to memory.
"""

from pathlib import Path

from pytest_dnnbench.proc import control_groups

_ROOT = Path("/sys/fs/cgroup")


class OomWatch:
    """Remembers the count of this process's group, which its ranks share, from when it is made."""

    def __init__(self) -> None:
        self._before = oom_kills()

    def killed(self) -> bool:
        """Whether the count has grown since."""
        return self._before is not None and (oom_kills() or 0) > self._before


def oom_kills(
    pid: int | str = "self", root: Path = _ROOT, proc: Path = Path("/proc")
) -> int | None:
    """The count of the group that the process is in, and of those below it."""
    groups = control_groups(proc / str(pid) / "cgroup")
    files = []
    if "memory" in groups:
        # Inside a container the group's path is that of the host; its files are at the root.
        version_1 = root / "memory"
        files += [
            version_1 / groups["memory"].lstrip("/") / "memory.oom_control",
            version_1 / "memory.oom_control",
        ]
    if "" in groups:
        files.append(root / groups[""].lstrip("/") / "memory.events")
    return next((count for file in files if (count := _count(file)) is not None), None)


def _count(file: Path) -> int | None:
    try:
        fields = dict(line.split() for line in file.read_text().splitlines())
        return int(fields["oom_kill"])
    except (OSError, KeyError, ValueError):
        return None
