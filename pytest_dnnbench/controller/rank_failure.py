"""From the ranks of a failed launch to its error: which rank is blamed, of what kind the failure
is, and what the message shows.

    a node was lost             first, for a lost node makes the ranks of the others raise
    a rank died                 before any that raised, for a death makes its peers raise
    an answer is unreadable     next, for a rank that sends what nobody can read cannot be believed
    a rank raised               a rank that knows which step went wrong comes first, of several the
                                earliest step; of the others, the first to raise
    nobody failed, time is up   the culprit of a hang (culprit.py)
"""

import signal
from collections.abc import Sequence
from typing import TypeVar

from pytest_dnnbench import errors
from pytest_dnnbench.controller.culprit import RankSnapshot, first_culprit, waited
from pytest_dnnbench.controller.oom_kills import OomWatch
from pytest_dnnbench.controller.rank_process import Rank
from pytest_dnnbench.errors import (
    DnnbenchError,
    NodeLost,
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
from pytest_dnnbench.harmless import text_block

Kind = TypeVar("Kind", bound=RankFailure)

_OUTPUT_LINES = 20


def failure_of(ranks: Sequence[Rank], memory: OomWatch) -> DnnbenchError:
    """The error of a launch in which at least one rank failed. `memory` was made before it."""
    if lost := [rank for rank in ranks if rank.lost and not rank.reported]:
        return _loss_of(lost[0], len(ranks))
    died = [rank for rank in ranks if rank.exit_code is not None and not rank.reported]
    if died:
        return _crash_of(died[0], len(ranks), memory)
    if unreadable := [rank for rank in ranks if rank.unreadable]:
        return unreadable_of(unreadable[0], len(ranks), unreadable[0].unreadable)
    raised = [(rank.error, rank) for rank in ranks if rank.error is not None]
    error, rank = min(raised, key=lambda pair: _precedence(*pair))
    return _exception_of(rank, error, len(ranks))


def unreadable_of(rank: Rank, world_size: int, reason: str) -> RankUnreadable:
    """The error of a rank whose answer cannot be read. `reason` continues "rank N of M sent"."""
    headline = f"{_name_of(rank, world_size)} sent {reason}"
    return _blame(RankUnreadable, rank, _message(rank, headline))


def hang_of(ranks: Sequence[Rank], timeout_s: float) -> RankHung:
    """The error of a launch in which no rank failed and at least one did not report in time. The
    stacks of its ranks have been gathered."""
    waiting = [rank for rank in ranks if rank.pending]
    stopped = [rank for rank in waiting if rank.stopped]
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
        f" rank {culprit.number}{culprit.on_node} {reason}; the stacks of the threads"
    )
    stacks = [_stacks_of(rank) for rank in sorted(waiting, key=lambda rank: rank is not culprit)]
    return _blame(RankHung, culprit, _message(culprit, headline, *stacks))


def printed_by(rank: Rank, failure: DnnbenchError | None) -> str:
    """What a rank printed, to be shown below the failure of its launch. Of an exception that is not
    the failure's cause, mostly a connection that the rank which failed first has closed, a line
    says what it was; not of ranks that waited for one which refused the request or the step."""
    output, error = rank.last_output(), rank.error
    if failure is None or error is None or text_block(error.message) in str(failure):
        return output
    if isinstance(failure, (UsageError, WrongResult)) and waited(error.traceback):
        return output
    reason = next(iter(error.message.splitlines()), "")
    return f"{output.rstrip()}\nraised {error.type.rpartition('.')[2]}: {reason}\n".lstrip()


def _loss_of(rank: Rank, world_size: int) -> NodeLost:
    where = rank.status.describe() or "before it reported"
    headline = f"node {rank.node} was lost: {rank.lost}; rank {rank.number} of {world_size} ran"
    return _blame(NodeLost, rank, _message(rank, f"{headline} there, {where}"))


def _crash_of(rank: Rank, world_size: int, memory: OomWatch) -> RankFailure:
    code = rank.exit_code or 0
    end = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    kind, cause = _cause_of(rank, memory)
    where = rank.status.describe() or "before it reported"
    headline = f"{_name_of(rank, world_size)} {end} {where}{cause}"
    return _blame(kind, rank, _message(rank, headline, rank.stack_text()))


def _cause_of(rank: Rank, memory: OomWatch) -> tuple[type[RankFailure], str]:
    """The kind of a crash, and what the message adds about its cause."""
    killed = memory.killed() if rank.oom_killed is None else rank.oom_killed
    if rank.exit_code == -signal.SIGKILL and killed:
        advice = "use fewer ranks or smaller batches"
        return RankOutOfMemory, f": the kernel killed it for lack of memory; {advice}"
    if rank.exit_code == -signal.SIGKILL:
        return RankCrashed, ": killed from outside"
    if rank.exit_code == -signal.SIGABRT and "std::bad_alloc" in rank.last_output():
        return RankOutOfMemory, ": it could not allocate memory"
    if rank.frame.progress:
        return RankCrashed, f"; {rank.frame.progress}"
    return RankCrashed, ""


def _precedence(error: RankError, rank: Rank) -> tuple[bool, int, float]:
    return error.step is None, error.step or 0, error.raised_s - rank.clock_offset_s


def _exception_of(rank: Rank, error: RankError, world_size: int) -> DnnbenchError:
    module, _, name = error.type.rpartition(".")
    # Errors that blame the request or the step, not the rank, stay what they are.
    kind = getattr(errors, name, None) if module == errors.__name__ else None
    if isinstance(kind, type) and issubclass(kind, (UsageError, WrongResult)):
        message = f"rank {rank.number}{rank.on_node}: {error.message}"
        same_error: DnnbenchError = kind(text_block(message))
        return same_error
    what = f"ran out of memory ({name})" if error.out_of_memory else f"raised {name}"
    subject = f"{_name_of(rank, world_size)} {what} {rank.status.describe()}".rstrip()
    message = f"{subject}: {error.message}\n{error.traceback.rstrip()}"
    return _blame(RankOutOfMemory if error.out_of_memory else RankRaised, rank, message)


def _blame(kind: type[Kind], rank: Rank, message: str) -> Kind:
    phase, output, text = rank.status.phase, rank.last_output(), text_block(message)
    return kind(text, rank=rank.number, output=output, rank_phase=phase, node=rank.node)


def _name_of(rank: Rank, world_size: int) -> str:
    return f"rank {rank.number} of {world_size}{rank.on_node}"


def _message(rank: Rank, headline: str, *parts: str) -> str:
    """The parts that are not empty, and the last lines that the rank printed."""
    printed = rank.last_output().strip().splitlines()[-_OUTPUT_LINES:]
    output = "\n".join(["its last output:", *printed]) if printed else ""
    return "\n".join(part for part in (headline, *parts, output) if part)


def _stacks_of(rank: Rank) -> str:
    missing = "stopped by a signal: no stacks" if rank.stopped else "no stacks: it did not answer"
    where = f"rank {rank.number}{rank.on_node} {rank.status.describe()}".rstrip()
    return f"{where}:\n{rank.stack_text() or f'({missing})'}"
