"""From the ranks of a failed launch to its error: which rank is blamed, of what kind the failure
is, and what the message shows.

    a rank died                 before any that raised, for a death makes its peers raise
    an answer is unreadable     next, for a rank that sends what nobody can read cannot be believed
    a rank raised               a rank that knows which step went wrong comes first, of several the
                                earliest step; of the others, the first to raise
    nobody failed, time is up   the culprit of a hang (culprit.py)
"""

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pytest_dnnbench import errors
from pytest_dnnbench.controller.culprit import RankSnapshot, first_culprit
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.oom_kills import OomWatch
from pytest_dnnbench.controller.rank_process import RankProcess
from pytest_dnnbench.errors import (
    DnnbenchError,
    RankCrashed,
    RankFailure,
    RankHung,
    RankOutOfMemory,
    RankRaised,
    RankUnreadable,
    UsageError,
    WrongResult,
)
from pytest_dnnbench.frames import RankError

Kind = TypeVar("Kind", bound=RankFailure)

_OUTPUT_LINES = 20
_STACKS_S = 3.0
"""How long ranks may take to write the stacks of their threads."""


def failure_of(ranks: Sequence[RankProcess], memory: OomWatch) -> DnnbenchError:
    """The error of a launch in which at least one rank failed. `memory` was made before it."""
    died = [rank for rank in ranks if rank.exit_code is not None and not rank.reported]
    if died:
        return _crash_of(died[0], len(ranks), memory)
    if unreadable := [rank for rank in ranks if rank.unreadable]:
        return unreadable_of(unreadable[0], len(ranks), unreadable[0].unreadable)
    raised = [(rank.error, rank) for rank in ranks if rank.error is not None]
    error, rank = min(raised, key=lambda pair: _precedence(pair[0]))
    return _exception_of(rank, error, len(ranks))


def unreadable_of(rank: RankProcess, world_size: int, reason: str) -> RankUnreadable:
    """The error of a rank whose answer cannot be read. `reason` continues "rank N of M sent"."""
    headline = f"rank {rank.number} of {world_size} sent {reason}"
    return _blame(RankUnreadable, rank, _message(rank, headline))


def hang_of(ranks: Sequence[RankProcess], server: ForkServer, timeout_s: float) -> RankHung:
    """The error of a launch in which no rank failed and at least one did not report in time."""
    waiting = [rank for rank in ranks if rank.pending]
    for rank in waiting:
        server.signal(rank.pid, signal.SIGUSR1)  # its fault handler writes the stacks
    stopped = [rank for rank in waiting if rank.stopped]
    _settle([rank.stacks for rank in waiting if rank not in stopped], _STACKS_S)
    snapshots = [
        RankSnapshot(
            rank.number,
            rank.status,
            rank.stack_text(),
            stopped=rank in stopped,
            reported=rank not in waiting,
        )
        for rank in ranks
    ]
    blamed, reason = first_culprit(snapshots)
    culprit = ranks[blamed.number]
    numbers = ", ".join(str(rank.number) for rank in waiting)
    headline = (
        f"rank {numbers} of {len(ranks)} did not finish within {timeout_s:g} s (--dnn-timeout);"
        f" rank {culprit.number} {reason}; the stacks of the threads"
    )
    stacks = [_stacks_of(rank) for rank in sorted(waiting, key=lambda rank: rank is not culprit)]
    return _blame(RankHung, culprit, _message(culprit, headline, *stacks))


def _crash_of(rank: RankProcess, world_size: int, memory: OomWatch) -> RankFailure:
    code = rank.exit_code or 0
    end = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    kind, cause = _cause_of(rank, memory)
    where = rank.status.describe() or "before it reported"
    headline = f"rank {rank.number} of {world_size} {end} {where}{cause}"
    return _blame(kind, rank, _message(rank, headline, rank.stack_text()))


def _cause_of(rank: RankProcess, memory: OomWatch) -> tuple[type[RankFailure], str]:
    """The kind of a crash, and what the message adds about its cause."""
    if rank.exit_code == -signal.SIGKILL and memory.killed():
        advice = "use fewer ranks or smaller batches"
        return RankOutOfMemory, f": the kernel killed it for lack of memory; {advice}"
    if rank.exit_code == -signal.SIGKILL:
        return RankCrashed, ": killed from outside"
    if rank.exit_code == -signal.SIGABRT and "std::bad_alloc" in rank.last_output():
        return RankOutOfMemory, ": it could not allocate memory"
    if rank.frame.progress:
        return RankCrashed, f"; {rank.frame.progress}"
    return RankCrashed, ""


def _precedence(error: RankError) -> tuple[bool, int, float]:
    return error.step is None, error.step or 0, error.raised_s


def _exception_of(rank: RankProcess, error: RankError, world_size: int) -> DnnbenchError:
    module, _, name = error.type.rpartition(".")
    # Errors that blame the request or the step, not the rank, stay what they are.
    kind = getattr(errors, name, None) if module == errors.__name__ else None
    if isinstance(kind, type) and issubclass(kind, (UsageError, WrongResult)):
        same_error: DnnbenchError = kind(f"rank {rank.number}: {error.message}")
        return same_error
    what = f"ran out of memory ({name})" if error.out_of_memory else f"raised {name}"
    subject = f"rank {rank.number} of {world_size} {what} {rank.status.describe()}".rstrip()
    message = f"{subject}: {error.message}\n{error.traceback.rstrip()}"
    return _blame(RankOutOfMemory if error.out_of_memory else RankRaised, rank, message)


def _blame(kind: type[Kind], rank: RankProcess, message: str) -> Kind:
    return kind(message, rank=rank.number, output=rank.last_output(), rank_phase=rank.status.phase)


def _message(rank: RankProcess, headline: str, *parts: str) -> str:
    """The parts that are not empty, and the last lines that the rank printed."""
    printed = rank.last_output().strip().splitlines()[-_OUTPUT_LINES:]
    output = "\n".join(["its last output:", *printed]) if printed else ""
    return "\n".join(part for part in (headline, *parts, output) if part)


def _stacks_of(rank: RankProcess) -> str:
    missing = "stopped by a signal: no stacks" if rank.stopped else "no stacks: it did not answer"
    where = f"rank {rank.number} {rank.status.describe()}".rstrip()
    return f"{where}:\n{rank.stack_text() or f'({missing})'}"


def _settle(files: Sequence[Path], timeout_s: float) -> None:
    """Waits until each file has content and has stopped growing."""
    deadline, sizes = time.monotonic() + timeout_s, [-1]
    while time.monotonic() < deadline:
        now = [path.stat().st_size if path.exists() else 0 for path in files]
        if now == sizes and all(now):
            return
        sizes = now
        time.sleep(0.1)
