"""The ranks that a process has running, found from outside: what its fork servers have forked."""

from contextlib import suppress
from pathlib import Path


def ranks_of(pid: int) -> list[int]:
    """The process ids of the ranks of a pytest process."""
    return [rank for child in _children(pid) if _is_server(child) for rank in _children(child)]


def _children(pid: int) -> list[int]:
    children: list[int] = []
    with suppress(OSError):  # it has just ended
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            children += map(int, path.read_text().split())
    return children


def _is_server(pid: int) -> bool:
    with suppress(OSError):
        return b"pytest_dnnbench.rank.server" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False
