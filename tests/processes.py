"""The ranks that a process has running, found from outside: what its fork servers have forked."""

from contextlib import suppress
from pathlib import Path

from pytest_dnnbench.proc import children_of, has_ended


def ranks_of(pid: int) -> list[int]:
    """The process ids of the ranks of a pytest process that have not ended."""
    children = [
        rank for child in children_of(pid) if _is_server(child) for rank in children_of(child)
    ]
    return [rank for rank in children if not has_ended(rank)]


def _is_server(pid: int) -> bool:
    with suppress(OSError):
        return b"pytest_dnnbench.rank.server" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False
