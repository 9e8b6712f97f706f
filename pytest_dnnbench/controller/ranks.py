"""Ranks: starts the ranks of a distributed job, each launch in fresh processes, and brings back
what they return.

First failure wins: its peers are ended, its traceback kept. Nothing here waits without a deadline,
and no rank is left when a launch returns, however it returns.
"""

import os
import pickle
import selectors
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any, Protocol

from pytest_dnnbench import errors
from pytest_dnnbench.controller.culprit import Seen, first_culprit
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.oom_kills import oom_kills
from pytest_dnnbench.controller.placement import Placement
from pytest_dnnbench.errors import (
    DnnbenchError,
    RankCrashed,
    RankFailure,
    RankHung,
    RankOutOfMemory,
    RankRaised,
    UsageError,
    WrongResult,
)
from pytest_dnnbench.messages import Place
from pytest_dnnbench.proc import process_fields
from pytest_dnnbench.rank_status import RankStatus, StatusPage

Target = tuple[str, str, str | None]
"""Module, qualified name and file of a function that ranks import by themselves."""

Rendezvous = Callable[[int], AbstractContextManager[list[dict[str, str]]]]
"""Given the world size: what runs beside the ranks, yielding the environment variables of each."""

Placements = Callable[[int], AbstractContextManager[Placement]]
"""Given the world size: the place of one launch, held while it lasts."""

GRACE_S = 0.5
"""After a first failure, how long other ranks may still report theirs: the culprit may be heard
second."""

EXIT_S = 10.0
"""How long a rank may take to end after it has reported, and the fork server to confirm an end."""

PROGRESS_S = 0.5
"""How often a display is shown where the ranks are: rarely enough not to disturb them."""

_FRAME_HEAD = 9
_TAIL_BYTES = 1 << 16


class Progress(Protocol):
    """A display of running ranks; called in the controller's own thread, which waits for the ranks
    meanwhile."""

    def show(self, standings: Sequence[RankStatus]) -> None:
        """Where each rank is; nothing yet while they are being started."""

    def clear(self) -> None:
        """The launch is over."""


@dataclass
class _Rank:
    """One running rank, as seen from here."""

    number: int
    pid: int
    pipe: int
    output: Path
    stacks: Path
    board: StatusPage
    received: bytearray = field(default_factory=bytearray)
    result: Any = None
    error: dict[str, Any] | None = None
    reported: bool = False
    code: int | None = None

    def read(self) -> None:
        """Takes what has arrived on the pipe; sets result or error once a frame is whole."""
        chunk = os.read(self.pipe, 1 << 20)
        self.received += chunk
        if self.reported or len(self.received) < _FRAME_HEAD:
            return
        size = int.from_bytes(self.received[1:_FRAME_HEAD], "little")
        if len(self.received) < _FRAME_HEAD + size:
            return
        body = pickle.loads(self.received[_FRAME_HEAD:])  # noqa: S301 - our own fork, over an inherited pipe
        self.reported = True
        if self.received[:1] == b"R":
            self.result = body
        else:
            self.error = body

    @property
    def failed(self) -> bool:
        return self.error is not None or (self.code is not None and not self.reported)


class Ranks:
    """The ranks of one distributed job. Each `run` starts fresh processes and ends them.

    `devices` holds one torch device per rank ("cpu" or "cuda:INDEX"); `timeout_s` bounds a whole
    launch. `outputs` are what the ranks of the last launch wrote to stdout and stderr (the end of
    it, 64 KiB each). `placements` gives each launch its own devices, and may make it wait for them;
    None: always `devices`. `placement` is the last launch's. `progress` is shown, every PROGRESS_S
    seconds of a launch, where its ranks are; None: the controller sleeps.
    """

    def __init__(
        self,
        server: ForkServer,
        devices: Sequence[str],
        *,
        threads: int,
        timeout_s: float,
        environment: dict[str, str] | None = None,
        progress: Progress | None = None,
        placements: Placements | None = None,
    ) -> None:
        self.server = server
        self.devices = tuple(devices)
        self.threads = threads
        self.timeout_s = timeout_s
        self.environment = environment or {}
        self.progress = progress
        self.placements = placements
        self.placement = Placement(self.devices, threads)
        self.outputs: list[str] = []
        self._oom_kills: int | None = None

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return len(self.devices)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Calls a function on every rank, inside a process group of torch.distributed; returns one
        result per rank.

        The function must be importable: defined at the top level of a module. Arguments and results
        are pickled. Raises RankRaised, RankCrashed or RankHung, naming the first culprit.
        """
        return self.launch("pytest_dnnbench.rank.group:call", target_of(function), *arguments)

    def launch(
        self, target: str, *arguments: Any, rendezvous: Rendezvous | None = None
    ) -> list[Any]:
        """Calls "module:function" on every rank as `function(place, *arguments)`, without joining
        any group."""
        module, _, name = target.partition(":")
        with (
            self.placements(self.world_size)
            if self.placements
            else nullcontext(self.placement) as self.placement,
            tempfile.TemporaryDirectory(
                prefix=f"dnnbench-{os.getpid()}-", ignore_cleanup_errors=True
            ) as directory,
            (rendezvous or _no_rendezvous)(self.world_size) as environments,
        ):
            ranks: list[_Rank] = []
            try:
                self._show(ranks)
                self.server.wait_ready()
                packed, self._oom_kills = pickle.dumps(arguments), oom_kills()
                deadline = time.monotonic() + self.timeout_s
                for number in range(self.world_size):
                    body = pickle.dumps(
                        (self._place(number, directory), (module, name, None), packed)
                    )
                    ranks.append(self._spawn(number, Path(directory), body, environments[number]))
                self._collect(ranks, deadline)
                self.placement.reported()
            finally:
                self._end(ranks)
                self.outputs = [_tail(rank.output) for rank in ranks]
                if self.progress:
                    self.progress.clear()
            return [rank.result for rank in ranks]

    def _show(self, ranks: list[_Rank]) -> None:
        if self.progress:
            self.progress.show([rank.board.look() for rank in ranks])

    def _place(self, number: int, directory: str) -> Place:
        return Place(
            rank=number,
            world_size=self.world_size,
            device=self.placement.devices[number],
            threads=self.placement.threads,
            rendezvous=str(Path(directory) / "store"),
            timeout_s=self.timeout_s,
        )

    def _spawn(
        self, number: int, directory: Path, body: bytes, environment: dict[str, str]
    ) -> _Rank:
        output, stacks = directory / f"rank{number}.log", directory / f"rank{number}.stacks"
        message = {
            "scratch": str(directory),
            "output": str(output),
            "stacks": str(stacks),
            "directory": os.getcwd(),
            "sys_path": sys.path,
            "environment": {
                **self.environment,
                **environment,
                "OMP_NUM_THREADS": str(self.placement.threads),
            },
            "cores": self.placement.cores,
        }
        request = os.memfd_create("dnnbench-request")
        board, page = StatusPage.make()
        ours, theirs = os.pipe()
        try:
            with open(request, "wb", closefd=False) as memory:
                memory.write(body)
            pid = self.server.spawn(message, request, theirs, page)
        except BaseException:
            os.close(ours)
            board.close()
            raise
        finally:
            for descriptor in (request, theirs, page):
                os.close(descriptor)
        return _Rank(number, pid, ours, output, stacks, board)

    def _collect(self, ranks: list[_Rank], deadline: float) -> None:
        """Returns when every rank has reported a result; raises on the first failure or at the
        deadline."""
        failed_at: float | None = None
        with selectors.DefaultSelector() as selector:
            selector.register(self.server, selectors.EVENT_READ)
            for rank in ranks:
                selector.register(rank.pipe, selectors.EVENT_READ, rank)
            while not all(rank.reported or rank.code is not None for rank in ranks):
                until = deadline if failed_at is None else min(deadline, failed_at + GRACE_S)
                if (now := time.monotonic()) >= until:
                    break
                heard = selector.select(
                    until - now if self.progress is None else min(until - now, PROGRESS_S)
                )
                for key, _ in heard:
                    self._hear(key, ranks, selector)
                if not heard:
                    self._show(ranks)
                if failed_at is None and any(rank.failed for rank in ranks):
                    failed_at = time.monotonic()
        if any(rank.failed for rank in ranks):
            raise self._failure(ranks)
        if not all(rank.reported for rank in ranks):
            raise self._hung(ranks)

    def _hear(
        self, key: selectors.SelectorKey, ranks: list[_Rank], selector: selectors.BaseSelector
    ) -> None:
        if key.data is None:
            self._note_exits(ranks, 0.0)
            return
        rank: _Rank = key.data
        before = len(rank.received)
        rank.read()
        if len(rank.received) == before:
            selector.unregister(rank.pipe)

    def _note_exits(self, ranks: list[_Rank], timeout_s: float) -> None:
        by_pid = {rank.pid: rank for rank in ranks}
        for exited in self.server.exits(timeout_s):
            if rank := by_pid.get(exited.pid):
                os.set_blocking(rank.pipe, False)
                _drain(rank)
                rank.code = exited.code

    def _failure(self, ranks: list[_Rank]) -> DnnbenchError:
        """The first culprit's failure: a rank that died before one that raised, since its death
        makes peers raise; of those that raised, one that tells which step went wrong, the earliest
        of them, before its peers."""
        died = [rank for rank in ranks if rank.code is not None and not rank.reported]
        if died:
            return self._crashed(died[0])
        raised = [(rank.error, rank) for rank in ranks if rank.error is not None]
        _, first = min(
            raised,
            key=lambda pair: (pair[0]["step"] is None, pair[0]["step"] or 0, pair[0]["raised_s"]),
        )
        return self._raised(first)

    def _crashed(self, rank: _Rank) -> RankFailure:
        code = rank.code or 0
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        stacks, standing = _tail(rank.stacks).strip(), rank.board.look()
        kind: type[RankFailure] = RankCrashed
        headline = _sentence(
            f"rank {rank.number} of {self.world_size} {how}", standing, "before it reported"
        )
        if code == -signal.SIGKILL:
            if self._oom_kills is not None and (oom_kills() or 0) > self._oom_kills:
                kind = RankOutOfMemory
                headline += (
                    ": the kernel killed it for lack of memory; use fewer ranks or smaller batches"
                )
            else:
                headline += ": killed from outside"
        elif code == -signal.SIGABRT and "std::bad_alloc" in _tail(rank.output):
            kind = RankOutOfMemory
            headline += ": it could not allocate memory"
        return self._blame(kind, rank, _report(headline, stacks, rank.output))

    def _raised(self, rank: _Rank) -> DnnbenchError:
        error = rank.error or {}
        module, _, name = error["type"].rpartition(".")
        known = getattr(errors, name, None) if module == errors.__name__ else None
        if known is not None and issubclass(known, (UsageError, WrongResult)):
            own: DnnbenchError = known(f"rank {rank.number}: {error['message']}")
            return own
        kind = RankOutOfMemory if error["out_of_memory"] else RankRaised
        what = f"ran out of memory ({name})" if error["out_of_memory"] else f"raised {name}"
        headline = _sentence(f"rank {rank.number} of {self.world_size} {what}", rank.board.look())
        return self._blame(
            kind,
            rank,
            _report(f"{headline}: {error['message']}", error["traceback"].rstrip(), None),
        )

    def _hung(self, ranks: list[_Rank]) -> RankFailure:
        waiting = [rank for rank in ranks if not rank.reported and rank.code is None]
        for rank in waiting:
            self.server.signal(rank.pid, signal.SIGUSR1)
        stopped = [rank for rank in waiting if _state(rank.pid) == "T"]
        _settle([rank.stacks for rank in waiting if rank not in stopped])
        seen, how = first_culprit(
            [
                Seen(
                    rank.number,
                    rank.board.look(),
                    _tail(rank.stacks),
                    rank in stopped,
                    rank not in waiting,
                )
                for rank in ranks
            ]
        )
        culprit = ranks[seen.number]
        stacks = "\n".join(
            f"{_sentence(f'rank {rank.number}', rank.board.look())}:\n{_tail(rank.stacks).strip() or _no_stacks(rank)}"
            for rank in sorted(waiting, key=lambda rank: rank is not culprit)
        )
        numbers = ", ".join(str(rank.number) for rank in waiting)
        headline = (
            f"rank {numbers} of {self.world_size} did not finish within {self.timeout_s:g} s (--dnn-timeout);"
            f" rank {culprit.number} {how}; the stacks of the threads"
        )
        return self._blame(RankHung, culprit, _report(headline, stacks, culprit.output))

    @staticmethod
    def _blame(kind: type[RankFailure], rank: _Rank, message: str) -> RankFailure:
        return kind(
            message, rank=rank.number, output=_tail(rank.output), phase=rank.board.look().phase
        )

    def _end(self, ranks: list[_Rank]) -> None:
        """Sees every rank out: those that reported may leave by themselves, the others are
        killed."""
        try:
            all_reported = all(rank.reported and rank.error is None for rank in ranks)
            if all_reported:
                self._await_exits(ranks, EXIT_S)
            for rank in ranks:
                if rank.code is None:
                    self.server.signal(rank.pid, signal.SIGKILL, group=True)
            self._await_exits(ranks, EXIT_S)
        finally:
            for rank in ranks:
                os.close(rank.pipe)
                rank.board.close()

    def _await_exits(self, ranks: list[_Rank], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while (
            any(rank.code is None for rank in ranks) and (left := deadline - time.monotonic()) > 0
        ):
            try:
                self._note_exits(ranks, left)
            except errors.LaunchError:
                return  # the server is gone, and the kernel ends its ranks with it


def target_of(function: Callable[..., Any]) -> Target:
    """How ranks find a function. Raises UsageError for one that they cannot import."""
    if not isinstance(function, FunctionType) or "<" in function.__qualname__:
        raise UsageError(
            f"{getattr(function, '__qualname__', function)!r} cannot run on ranks:"
            " they import it by name, so define it with `def` at the top level of a module"
        )
    return function.__module__, function.__qualname__, function.__code__.co_filename


@contextmanager
def _no_rendezvous(world_size: int) -> Iterator[list[dict[str, str]]]:
    yield [{} for _ in range(world_size)]


def _drain(rank: _Rank) -> None:
    """Reads what a rank that has ended left in its pipe."""
    while True:
        before = len(rank.received)
        try:
            rank.read()
        except BlockingIOError:
            return
        if len(rank.received) == before:
            return


def _sentence(subject: str, standing: RankStatus, otherwise: str = "") -> str:
    """The subject and where it is, or what is said where that is nothing."""
    return f"{subject} {standing.describe() or otherwise}".rstrip()


def _report(headline: str, body: str, output: Path | None) -> str:
    parts = [headline, body]
    if output is not None and (lines := _tail(output).strip().splitlines()[-20:]):
        parts.append("its last output:\n" + "\n".join(lines))
    return "\n".join(part for part in parts if part)


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _state(pid: int) -> str:
    try:
        return process_fields(pid)[0]
    except OSError:
        return ""


def _no_stacks(rank: _Rank) -> str:
    return (
        "(stopped by a signal: no stacks)"
        if _state(rank.pid) == "T"
        else "(no stacks: it did not answer)"
    )


def _settle(files: list[Path], timeout_s: float = 3.0) -> None:
    """Waits until each file has content and has stopped growing."""
    deadline, sizes = time.monotonic() + timeout_s, [-1]
    while time.monotonic() < deadline:
        now = [path.stat().st_size if path.exists() else 0 for path in files]
        if now == sizes and all(now):
            return
        sizes = now
        time.sleep(0.1)
