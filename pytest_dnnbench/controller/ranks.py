"""Ranks: starts the ranks of a distributed job, each launch in fresh processes, and collects what
they return.

The first failure wins: its peers are ended and its traceback is kept (rank_failure.py). Nothing
here waits without a deadline, and no rank is left when a launch returns, however it returns: a fork
server that does not end its ranks is ended itself.
"""

import os
import pickle
import selectors
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import FunctionType
from typing import Any, Protocol

from pytest_dnnbench.controller.deadline import LOOK_S, Deadline
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.oom_kills import OomWatch
from pytest_dnnbench.controller.placement import Placement
from pytest_dnnbench.controller.rank_answer import Unreadable, plain_of
from pytest_dnnbench.controller.rank_clock import LaunchClock
from pytest_dnnbench.controller.rank_failure import failure_of, hang_of, unreadable_of
from pytest_dnnbench.controller.rank_process import RankProcess
from pytest_dnnbench.controller.server_environment import changes
from pytest_dnnbench.controller.unpickling import unpickled
from pytest_dnnbench.errors import LaunchError, RankFailure, UsageError
from pytest_dnnbench.frames import PICKLED, PLAIN, SpawnMessage
from pytest_dnnbench.messages import Place, Target
from pytest_dnnbench.rank_status import RankStatus, StatusPage

Rendezvous = Callable[[int], AbstractContextManager[Sequence[Mapping[str, str]]]]
"""Given the world size: runs beside the ranks, and yields the environment variables of each."""

PlacementSource = Callable[[int], AbstractContextManager[Placement]]
"""Given the world size: the placement of one launch, held while the launch lasts."""

GRACE_S = 0.5
"""After a first failure, how long other ranks may still report theirs: the report of the rank to
blame may arrive second."""

EXIT_S = 10.0
"""How long a rank may take to end after it has reported, and the fork server to confirm an end."""

PROGRESS_S = 0.5
"""How often a display of running ranks is updated: rarely enough not to disturb them."""

UNPICKLE_S = 1.0
"""The least time to unpickle a result that came just before the deadline."""


class Progress(Protocol):
    """A display of running ranks. Called in the controller's own thread, which waits for the ranks
    meanwhile."""

    def show(self, statuses: Sequence[RankStatus], /) -> None:
        """The status of each rank; empty while they are being started."""

    def clear(self) -> None:
        """The launch is over."""


class NoProgress:
    """Displays nothing."""

    def show(self, statuses: Sequence[RankStatus], /) -> None:
        """As Progress.show."""

    def clear(self) -> None:
        """As Progress.clear."""


class Ranks:
    """The ranks of one distributed job. Each `run` or `launch` starts fresh processes and ends
    them.

    `devices` holds one torch device per rank ("cpu" or "cuda:INDEX") and so decides the world size;
    `threads` are the compute threads of each rank. With `placements`, each launch gets devices and
    threads from there instead, and may wait for them. `timeout_s` bounds a whole launch,
    `environment` is added to that of each rank. `progress` is shown the ranks' statuses every
    PROGRESS_S seconds; without it the controller wakes only every LOOK_S seconds or when a rank
    reports.

    After a launch, `placement` is where it ran, `clock` when, and `outputs` what its ranks wrote to
    stdout and stderr (the end of it, 64 KiB each).
    """

    def __init__(
        self,
        server: ForkServer,
        devices: Sequence[str],
        *,
        threads: int,
        timeout_s: float,
        environment: Mapping[str, str] | None = None,
        progress: Progress | None = None,
        placements: PlacementSource | None = None,
    ) -> None:
        self.server = server
        self.world_size = len(devices)
        """The number of ranks."""
        self.timeout_s = timeout_s
        self.environment = dict(environment or {})
        self.placement = Placement(tuple(devices), threads)
        self.outputs: list[str] = []
        self.clock = LaunchClock()
        self._placements = placements or _always(self.placement)
        self._progress = progress or NoProgress()
        self._wake_s = PROGRESS_S if progress else LOOK_S

    def on(self, server: ForkServer, placements: PlacementSource) -> "Ranks":
        """As many ranks with the same settings, forked by another server."""
        return Ranks(
            server,
            self.placement.devices,
            threads=self.placement.threads,
            timeout_s=self.timeout_s,
            environment=self.environment,
            progress=None if isinstance(self._progress, NoProgress) else self._progress,
            placements=placements,
        )

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Calls a function on every rank, inside a process group of torch.distributed; returns one
        result per rank.

        The function must be importable: defined at the top level of a module. Arguments and results
        are pickled; results are values of at most 256 MiB each (unpickling.py), read within the
        time-out. Raises RankRaised, RankOutOfMemory, RankCrashed, RankHung or RankUnreadable, which
        blame one rank.
        """
        return self.launch("pytest_dnnbench.rank.group:call", target_of(function), *arguments)

    def launch(
        self,
        target: str,
        *arguments: Any,
        rendezvous: Rendezvous | None = None,
        returns: Any = None,
    ) -> list[Any]:
        """Calls "module:function" on every rank as `function(place, *arguments)`, outside any
        process group. Raises as `run` does.

        `returns` is the type of the results where they are plain data: ranks then send no pickles,
        and what is of another type is refused.
        """
        module, _, name = target.partition(":")
        kind = PICKLED if returns is None else PLAIN
        self.server.start()
        with (
            self._placements(self.world_size) as self.placement,
            _scratch_folder(self.server.scratch_prefix) as folder,
            (rendezvous or no_rendezvous)(self.world_size) as environments,
        ):
            ranks: list[RankProcess] = []
            failure: RankFailure | None = None
            try:
                request = ((module, name, None), pickle.dumps(arguments), kind)
                deadline = self._run(ranks, folder, environments, request)
                return [self._result(rank, kind, returns, deadline) for rank in ranks]
            except RankFailure as error:
                failure = error
                raise
            finally:
                self._end(ranks)
                self.outputs = [rank.last_output() for rank in ranks]
                if failure is not None:
                    # Now that the rank has ended, everything that it wrote has arrived.
                    failure.output = self.outputs[failure.rank]
                self._progress.clear()

    def _run(
        self,
        ranks: list[RankProcess],
        folder: Path,
        environments: Sequence[Mapping[str, str]],
        request: tuple[Target, bytes, bytes],
    ) -> Deadline:
        """Starts the ranks, adding them to `ranks`, and waits until all of them have reported.
        Returns the launch's deadline."""
        self._show(ranks)
        self.server.wait_ready(self.timeout_s)
        memory = OomWatch()
        self.clock = LaunchClock()
        deadline = Deadline(self.timeout_s)
        for number, met in enumerate(environments):
            environment = {**self.placement.variables_of(number), **met}
            place = self._place(number, folder, tuple(environment))
            message = pickle.dumps((place, *request))
            ranks.append(self._start(number, folder, message, environment))
        self.placement.watch.ranks_started([rank.pid for rank in ranks])
        self._collect(ranks, deadline, memory)
        self.clock.stop([rank.page.timing_s() for rank in ranks])
        self.placement.watch.ranks_reported()
        return deadline

    def _result(self, rank: RankProcess, kind: bytes, returns: Any, deadline: Deadline) -> Any:
        """What a rank returned. Raises RankUnreadable."""
        frame = rank.frame
        try:
            if frame.kind != kind:
                raise Unreadable(f"an answer of the kind {frame.kind!r} instead of {kind!r}")
            if kind == PLAIN:
                return plain_of(frame.body, returns)
            return unpickled(frame.body, max(UNPICKLE_S, deadline.left_s()))
        except Unreadable as error:
            raise unreadable_of(rank, self.world_size, str(error)) from None

    def _show(self, ranks: Sequence[RankProcess]) -> None:
        self._progress.show([rank.status for rank in ranks])

    def _place(self, number: int, folder: Path, launch_variables: tuple[str, ...]) -> Place:
        return Place(
            rank=number,
            world_size=self.world_size,
            device=self.placement.devices[number],
            threads=self.placement.threads,
            rendezvous=str(folder / "store"),
            timeout_s=self.timeout_s,
            launch_variables=launch_variables,
            gpu_uuid=self.placement.gpu_uuids[number] if self.placement.gpu_uuids else "",
        )

    def _start(
        self, number: int, folder: Path, request: bytes, environment: Mapping[str, str]
    ) -> RankProcess:
        """Starts one rank, which reads `request` from memory that it inherits."""
        output, stacks = folder / f"rank{number}.log", folder / f"rank{number}.stacks"
        threads = {"OMP_NUM_THREADS": str(self.placement.threads)}
        changed, removed = changes(self.server.environment)
        side = self.server.side
        message = SpawnMessage(
            scratch=str(folder),
            output=str(output),
            stacks=str(stacks),
            directory=os.getcwd(),
            sys_path=side.sys_path,
            environment={
                **changed,
                **side.variables,
                **self.environment,
                **environment,
                **threads,
            },
            cores=self.placement.cores_of(number),
            unset=tuple(name for name in removed if name not in side.variables),
        )
        memory = os.memfd_create("dnnbench-request")
        page, page_descriptor = StatusPage.make()
        reading_end, writing_end = os.pipe()
        try:
            with open(memory, "wb", closefd=False) as file:
                file.write(request)
            pid = self.server.spawn(
                message, memory, writing_end, page_descriptor, timeout_s=self.timeout_s
            )
        except BaseException:
            os.close(reading_end)
            page.close()
            raise
        finally:
            for descriptor in (memory, writing_end, page_descriptor):
                os.close(descriptor)
        return RankProcess(number, pid, reading_end, output, stacks, page)

    def _collect(self, ranks: Sequence[RankProcess], deadline: Deadline, memory: OomWatch) -> None:
        """Returns when every rank has reported a result; raises on the first failure or at the
        deadline."""
        grace: Deadline | None = None
        with selectors.DefaultSelector() as selector:
            selector.register(self.server, selectors.EVENT_READ)
            for rank in ranks:
                selector.register(rank.pipe, selectors.EVENT_READ, rank)
            while any(rank.pending for rank in ranks):
                left_s = deadline.left_s() if grace is None else grace.left_s()
                # Also when the time is up: what has come by then counts.
                watch = self.placement.watch
                due_s = watch.due_s()
                wake_s = self._wake_s if due_s is None else min(self._wake_s, due_s)
                events = selector.select(min(left_s, wake_s))
                watch.sample()
                for key, _ in events:
                    self._receive(key, ranks, selector)
                if left_s <= 0:
                    break
                if not events:
                    self._show(ranks)
                if grace is None and any(rank.failed for rank in ranks):
                    grace = Deadline(min(GRACE_S, deadline.left_s()))
        if any(rank.failed for rank in ranks):
            raise failure_of(ranks, memory)
        if not all(rank.reported for rank in ranks):
            if self.server.stopped:
                raise self.server.silent(self.timeout_s)
            raise hang_of(ranks, self.server, self.timeout_s)

    def _receive(
        self,
        key: selectors.SelectorKey,
        ranks: Sequence[RankProcess],
        selector: selectors.BaseSelector,
    ) -> None:
        """Takes what has arrived: from a rank, or from the fork server that a rank has ended."""
        rank: RankProcess | None = key.data
        if rank is None:
            self._note_exits(ranks, 0.0)
        elif not rank.read():
            selector.unregister(rank.pipe)

    def _note_exits(self, ranks: Sequence[RankProcess], timeout_s: float) -> None:
        by_pid = {rank.pid: rank for rank in ranks}
        for exited in self.server.exits(timeout_s):
            if rank := by_pid.get(exited.pid):
                rank.ended(exited.code)

    def _end(self, ranks: Sequence[RankProcess]) -> None:
        """Ends every rank. If all have reported a result, they may leave by themselves; otherwise
        they are killed. A server that does not confirm their ends is ended with them."""
        try:
            if all(rank.reported and not rank.failed for rank in ranks):
                self._await_exits(ranks, EXIT_S)
            for rank in ranks:
                if rank.exit_code is None:
                    self.server.signal(rank.pid, signal.SIGKILL, group=True)
            self._await_exits(ranks, EXIT_S)
            if any(rank.exit_code is None for rank in ranks):
                self.server.close()
        finally:
            for rank in ranks:
                rank.close()

    def _await_exits(self, ranks: Sequence[RankProcess], timeout_s: float) -> None:
        deadline = Deadline(timeout_s)
        with suppress(LaunchError):  # if the server is gone, the kernel ends its ranks
            while any(rank.exit_code is None for rank in ranks) and not self.server.stopped:
                if not (left_s := deadline.left_s()):
                    return
                self._note_exits(ranks, min(left_s, LOOK_S))


def target_of(function: Callable[..., Any]) -> Target:
    """How ranks find a function or a class. Raises UsageError for one that they cannot import."""
    if not isinstance(function, FunctionType | type) or "<" in function.__qualname__:
        raise UsageError(
            f"{getattr(function, '__qualname__', function)!r} cannot run on ranks:"
            " they import it by name, so define it with `def` at the top level of a module (a class"
            " too)"
        )
    file = getattr(sys.modules.get(function.__module__), "__file__", None)
    if isinstance(function, FunctionType):
        file = function.__code__.co_filename
    return function.__module__, function.__qualname__, file


@contextmanager
def no_rendezvous(world_size: int) -> Iterator[list[dict[str, str]]]:
    """Nothing runs beside the ranks, and no variables are added."""
    yield [{} for _ in range(world_size)]


def _always(placement: Placement) -> PlacementSource:
    """The same placement for every launch."""

    @contextmanager
    def source(world_size: int) -> Iterator[Placement]:
        yield placement

    return source


@contextmanager
def _scratch_folder(prefix: str) -> Iterator[Path]:
    """The folder of a launch's files, private to the user and removed afterwards; its path begins
    with `prefix`."""
    parent, name = os.path.split(prefix)
    with tempfile.TemporaryDirectory(prefix=name, dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)
