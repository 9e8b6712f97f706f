"""The part of a launch that runs on one node: what the controller asks of any node (`LaunchPart`),
and how this machine does it (`LocalPart`).

    Ranks ── LocalPart ─────────────────────────────── fork server ── ranks
          ── RemotePart ── agent (agent.py) ── LocalPart ── fork server ── ranks

Not here: the part of another node (remote_node.py).
"""

import errno
import os
import pickle
import resource
import selectors
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from pytest_dnnbench.controller.deadline import LOOK_S, Deadline
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_process import Rank, RankProcess
from pytest_dnnbench.errors import LaunchError
from pytest_dnnbench.frames import SpawnMessage
from pytest_dnnbench.messages import Place, Target
from pytest_dnnbench.rank_status import StatusPage

EXIT_S = 10.0
"""How long a rank may take to end after it has reported, and the fork server to confirm an end."""

_LIMITS = {
    errno.EMFILE: (
        resource.RLIMIT_NOFILE,
        "this process may open {:,} files: raise that with `ulimit -n`, or start fewer ranks",
    ),
    errno.EFBIG: (
        resource.RLIMIT_FSIZE,
        "this process may write files of {:,} bytes: raise that with `ulimit -f`",
    ),
}
"""Errors of starting a rank that a limit of this process explains: which one, and the words."""

_STACKS_S = 10.0
"""How long ranks may take to write the stacks of their threads."""


@dataclass(frozen=True, slots=True)
class RankTask:
    """What one rank is to do: call a function with its place and the packed arguments, and answer
    in a frame of this kind. `environment` and `unset` are on top of the fork server's own; `cores`
    are those that the rank may run on, empty for all."""

    place: Place
    target: Target
    arguments: bytes
    kind: bytes
    directory: str
    sys_path: tuple[str, ...]
    environment: Mapping[str, str]
    unset: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()


def _limit_text(number: int) -> str:
    """The limit behind an error number, and how to raise it."""
    limit, words = _LIMITS[number]
    return words.format(resource.getrlimit(limit)[0])


def _closed_by(stack: ExitStack, descriptor: int) -> int:
    stack.callback(os.close, descriptor)
    return descriptor


class LaunchPart(Protocol):
    """The ranks of one launch on one node."""

    @property
    def ranks(self) -> Sequence[Rank]:
        """Those that have been started, in order."""

    def await_begin(self) -> None:
        """Returns when the launch has begun there, and ranks can be forked. Raises LaunchError."""

    def start(self, task: RankTask) -> Rank:
        """Starts one rank. Raises LaunchError. Another node may only have been asked to."""

    def await_starts(self) -> None:
        """Returns when all ranks that were to start have started. Raises LaunchError."""

    def watch(self, selector: selectors.BaseSelector) -> None:
        """Registers what may become readable; the data of a key is what to call then."""

    def look(self) -> None:
        """Asks for the ranks' statuses, without waiting for them."""

    def ask_ends(self) -> None:
        """Asks how ranks ended that have ended, without waiting for it."""

    def confirm_ends(self) -> None:
        """Waits until it is known how ranks ended that have ended: a fork server that has no core
        for a while says so late, and a peer that raises because of it is not to blame."""

    def ask_gather(self, *, stacks: bool) -> None:
        """Asks for the ranks' outputs and timings, and for their stacks where these are wanted."""

    def gather(self) -> None:
        """Waits until what was asked for can be read."""

    def reported(self) -> None:
        """All ranks of the launch have reported and still hold their devices."""

    @property
    def silence(self) -> LaunchError | None:
        """The error of a node that no longer answers, which is then ended; None while it does."""

    def ask_end(self, orderly: bool) -> None:
        """Begins to end the ranks; in an `orderly` end they may leave by themselves."""

    def end(self, orderly: bool) -> None:
        """Ends every rank, and returns when they have ended. What does not confirm their ends is
        ended itself."""


class LocalPart:
    """The ranks of a launch on this machine. `node` is its name among several nodes, empty where
    there is no other. Close it, or use it in a `with`: then the folder of the launch goes.

    `forward`: see RankProcess; called with the rank's number and the bytes.
    """

    def __init__(
        self,
        server: ForkServer,
        timeout_s: float,
        *,
        node: str = "",
        forward: Callable[[int, bytes], None] | None = None,
    ) -> None:
        self.server = server
        self.timeout_s = timeout_s
        self.node = node
        self.ranks: list[RankProcess] = []
        self._stacks_of: Sequence[RankProcess] = ()
        self._forward = forward
        self._store: socket.socket | None = None
        self._folder = _scratch_folder(server.scratch_prefix)

    def __enter__(self) -> "LocalPart":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Removes the launch's files."""
        if self._store is not None:
            self._store.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def listen(self, address: str) -> int:
        """Binds the socket of the launch's store, which rank 0 is to keep; returns its port."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._store = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._store.bind((address, 0))
            self._store.listen(socket.SOMAXCONN)
        except OSError as error:
            raise LaunchError(f"the ranks' store cannot listen on {address}: {error}") from None
        return int(self._store.getsockname()[1])

    def await_begin(self) -> None:
        """Nothing to wait for: it has begun when it is made."""

    def start(self, task: RankTask) -> RankProcess:
        """Starts one rank, which reads its request from memory that it inherits. Raises LaunchError
        where a limit of this process does not allow it."""
        try:
            return self._start(task)
        except OSError as error:
            if error.errno not in _LIMITS:
                raise
            place = task.place
            raise LaunchError(
                f"rank {place.rank} of {place.world_size} cannot be started:"
                f" {os.strerror(error.errno)}: {_limit_text(error.errno)}"
            ) from None

    def _start(self, task: RankTask) -> RankProcess:
        number, folder = task.place.rank, self._folder
        output, stacks = folder / f"rank{number}.log", folder / f"rank{number}.stacks"
        message = SpawnMessage(
            scratch=str(folder),
            output=str(output),
            stacks=str(stacks),
            directory=task.directory,
            sys_path=task.sys_path,
            environment=dict(task.environment),
            cores=task.cores,
            unset=task.unset,
        )
        place = replace(task.place, rendezvous=str(folder / "store"))
        request = pickle.dumps((place, task.target, task.arguments, task.kind))
        with ExitStack() as undo, ExitStack() as ours:
            memory = _closed_by(ours, os.memfd_create("dnnbench-request"))
            page, page_descriptor = StatusPage.make()
            undo.callback(page.close)
            ours.callback(os.close, page_descriptor)
            reading_end, writing_end = os.pipe()
            undo.callback(os.close, reading_end)
            ours.callback(os.close, writing_end)
            keeps_store = [self._store.fileno()] if self._store is not None and number == 0 else []
            with open(memory, "wb", closefd=False) as file:
                file.write(request)
            descriptors = [memory, writing_end, page_descriptor, *keeps_store]
            pid = self.server.spawn(message, descriptors, timeout_s=self.timeout_s)
            undo.pop_all()  # the rank has started: its page and its pipe stay
        if keeps_store and self._store is not None:
            self._store.close()  # the rank has it, and its end must end the store
        rank = RankProcess(number, pid, reading_end, output, stacks, page, node=self.node)
        if self._forward is not None:
            forward = self._forward
            rank.forward = lambda chunk: forward(number, chunk)
        self.ranks.append(rank)
        return rank

    def await_starts(self) -> None:
        """Nothing to wait for: a rank has started when `start` returns."""

    def watch(self, selector: selectors.BaseSelector) -> None:
        """As LaunchPart.watch."""
        selector.register(self.server, selectors.EVENT_READ, lambda: self.note_exits(0.0))
        for rank in self.ranks:
            selector.register(rank.pipe, selectors.EVENT_READ, _reading(rank, selector))

    def look(self) -> None:
        """Nothing to ask: a status is a look at a page of memory."""

    def ask_ends(self) -> None:
        """Nothing to ask: the fork server says so by itself."""

    def confirm_ends(self) -> None:
        """As LaunchPart.confirm_ends."""
        deadline = Deadline(EXIT_S)
        with suppress(LaunchError):  # the server is gone, which is said later
            while any(rank.ends_unconfirmed for rank in self.ranks):
                if not (left_s := deadline.left_s()):
                    return
                self.note_exits(min(left_s, LOOK_S))

    def ask_gather(self, *, stacks: bool) -> None:
        """As LaunchPart.ask_gather."""
        self._stacks_of = [rank for rank in self.ranks if rank.pending] if stacks else []
        for rank in self._stacks_of:
            self.server.signal(rank.pid, signal.SIGUSR1)  # its fault handler writes the stacks

    def gather(self) -> None:
        """As LaunchPart.gather."""
        if self._stacks_of:
            _settle([rank.stacks for rank in self._stacks_of if not rank.stopped], _STACKS_S)

    def reported(self) -> None:
        """Nothing to do: the placement's own watch is told by the controller."""

    @property
    def silence(self) -> LaunchError | None:
        """As LaunchPart.silence."""
        return self.server.silent(self.timeout_s) if self.server.stopped else None

    def note_exits(self, timeout_s: float) -> list[RankProcess]:
        """Takes the ends of ranks from the fork server; waits up to `timeout_s` for the first.
        Returns the ranks that have ended."""
        by_pid = {rank.pid: rank for rank in self.ranks}
        ended = []
        for exited in self.server.exits(timeout_s):
            if rank := by_pid.get(exited.pid):
                rank.ended(exited.code)
                ended.append(rank)
        return ended

    def ask_end(self, orderly: bool) -> None:
        """Kills at once where ranks may not leave by themselves."""
        if not orderly:
            self._kill()

    def end(self, orderly: bool) -> None:
        """As LaunchPart.end."""
        try:
            if orderly:
                self._await_exits(EXIT_S)
            self._kill()
            self._await_exits(EXIT_S)
            if any(rank.exit_code is None for rank in self.ranks):
                self.server.close()
        finally:
            for rank in self.ranks:
                rank.close()

    def _kill(self) -> None:
        for rank in self.ranks:
            if rank.exit_code is None:
                self.server.signal(rank.pid, signal.SIGKILL, group=True)

    def _await_exits(self, timeout_s: float) -> None:
        deadline = Deadline(timeout_s)
        with suppress(LaunchError):  # if the server is gone, the kernel ends its ranks
            while any(rank.exit_code is None for rank in self.ranks) and not self.server.stopped:
                if not (left_s := deadline.left_s()):
                    return
                self.note_exits(min(left_s, LOOK_S))


def _reading(rank: RankProcess, selector: selectors.BaseSelector) -> Callable[[], None]:
    def read() -> None:
        if not rank.read():
            selector.unregister(rank.pipe)

    return read


def _scratch_folder(prefix: str) -> Path:
    """The folder of a launch's files, private to the user; its path begins with `prefix`."""
    parent, name = os.path.split(prefix)
    return Path(tempfile.mkdtemp(prefix=name, dir=parent))


def _settle(files: Sequence[Path], timeout_s: float) -> None:
    """Waits until each file has content and has stopped growing."""
    deadline, sizes = time.monotonic() + timeout_s, [-1]
    while time.monotonic() < deadline:
        now = [path.stat().st_size if path.exists() else 0 for path in files]
        if now == sizes and all(now):
            return
        sizes = now
        time.sleep(0.1)
