"""Ranks: starts the ranks of a distributed job, each launch in fresh processes, and collects what
they return.

The first failure wins: its peers are ended and its traceback is kept (rank_failure.py). Nothing
here waits without a deadline, and no rank is left when a launch returns, however it returns: a fork
server that does not end its ranks is ended itself.
"""

import os
import selectors
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any, Protocol

from pytest_dnnbench.controller.deadline import LOOK_S, Deadline
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.job import Job, JobShare, Rendezvous, begin, no_rendezvous
from pytest_dnnbench.controller.launch_part import RankTask
from pytest_dnnbench.controller.oom_kills import OomWatch
from pytest_dnnbench.controller.placement import Placement, PlacementSource
from pytest_dnnbench.controller.rank_answer import Unreadable, plain_of
from pytest_dnnbench.controller.rank_clock import LaunchClock
from pytest_dnnbench.controller.rank_failure import failure_of, hang_of, printed_by, unreadable_of
from pytest_dnnbench.controller.rank_process import Rank, RankProcess
from pytest_dnnbench.controller.server_environment import changes
from pytest_dnnbench.controller.this_node import ThisNode
from pytest_dnnbench.controller.unpickling import unpickled
from pytest_dnnbench.errors import DnnbenchError, RankFailure, UsageError
from pytest_dnnbench.frames import PLAIN, PORTABLE
from pytest_dnnbench.messages import Place, Target
from pytest_dnnbench.rank_status import RankStatus

GRACE_S = 0.5
"""After a first failure, how long other ranks may still report theirs: the report of the rank to
blame may arrive second."""

PROGRESS_S = 0.5
"""How often a display of running ranks is updated: rarely enough not to disturb them."""

UNPICKLE_S = 1.0
"""The least time to unpickle a result that came just before the deadline."""


class RankDisplay(Protocol):
    """A display of running ranks. Called in the controller's own thread, which waits for the ranks
    meanwhile."""

    def show(self, statuses: Sequence[RankStatus], /) -> None:
        """The status of each rank; empty while they are being started."""

    def clear(self) -> None:
        """The launch is over."""


class NoDisplay:
    """Displays nothing."""

    def show(self, statuses: Sequence[RankStatus], /) -> None:
        """As RankDisplay.show."""

    def clear(self) -> None:
        """As RankDisplay.clear."""


class Ranks:
    """The ranks of one distributed job. Each `run` or `launch` starts fresh processes and ends
    them.

    `devices` holds one torch device per rank ("cpu" or "cuda:INDEX") and so decides the world size;
    `threads` are the compute threads of each rank. With `placements`, each launch gets devices and
    threads from there instead, and may wait for them. `server` forks the ranks of launches whose
    placement names no nodes; None where all do. `timeout_s` bounds a whole launch,
    `environment` is added to that of each rank. `progress` is shown the ranks' statuses every
    PROGRESS_S seconds; without it the controller wakes only every LOOK_S seconds or when a rank
    reports.

    After a launch, `placement` is where it ran, `clock` when, and `outputs` what its ranks wrote to
    stdout and stderr (the end of it, 64 KiB each).
    """

    def __init__(
        self,
        server: ForkServer | None,
        devices: Sequence[str],
        *,
        threads: int,
        timeout_s: float,
        environment: Mapping[str, str] | None = None,
        progress: RankDisplay | None = None,
        placements: PlacementSource | None = None,
    ) -> None:
        self._here = None if server is None else ThisNode("", server)
        self.world_size = len(devices)
        """The number of ranks."""
        self.timeout_s = timeout_s
        self.environment = dict(environment or {})
        self.placement = Placement(tuple(devices), threads)
        self.outputs: list[str] = []
        self.clock = LaunchClock()
        self._placements = placements or _always(self.placement)
        self._progress = progress or NoDisplay()
        self._wake_s = PROGRESS_S if progress else LOOK_S

    def on(self, server: ForkServer, placements: PlacementSource) -> "Ranks":
        """As many ranks with the same settings, forked by another server."""
        return Ranks(
            server,
            self.placement.devices,
            threads=self.placement.threads,
            timeout_s=self.timeout_s,
            environment=self.environment,
            progress=None if isinstance(self._progress, NoDisplay) else self._progress,
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
        if self._here is not None:
            self._here.start()
        with (
            self._placements(self.world_size) as self.placement,
            self._begun(rendezvous) as job,
        ):
            kind = job.kind(returns)
            failure: DnnbenchError | None = None
            try:
                deadline = self._run(job, (module, name, None), job.packed(arguments), kind)
                return [self._result(rank, kind, returns, deadline) for rank in job.ranks]
            except DnnbenchError as error:
                failure = error
                raise
            finally:
                job.end()
                # Now that the ranks have ended, everything that they wrote has arrived.
                self.outputs = [printed_by(rank, failure) for rank in job.ranks]
                if isinstance(failure, RankFailure):
                    failure.output = job.ranks[failure.rank].last_output()
                self._progress.clear()

    @contextmanager
    def _begun(self, rendezvous: Rendezvous | None) -> Iterator[Job]:
        """A launch that has begun on every node of the placement."""
        if not self.placement.shares:
            assert self._here is not None, "a session with nodes places every launch on some"
            with (
                self._here.launch(self.timeout_s, ()) as launch,
                (rendezvous or no_rendezvous)(self.world_size) as environments,
            ):
                yield Job([JobShare(self._here, launch.part, self.world_size)], environments)
        else:
            with begin(self.placement.shares, self.timeout_s, rendezvous) as job:
                yield job

    def _run(self, job: Job, target: Target, arguments: bytes, kind: bytes) -> Deadline:
        """Starts the ranks, and waits until all of them have reported. Returns the launch's
        deadline."""
        self._show(job.ranks)
        for share in job.shares:
            share.node.wait_ready(self.timeout_s)
        for share in job.shares:
            share.part.await_begin()
        memory = OomWatch()
        self.clock = LaunchClock()
        deadline = Deadline(self.timeout_s)
        for number, share in enumerate(job.share_of_rank):
            share.part.start(self._task(job, number, share, target, arguments, kind))
        for share in job.shares:
            share.part.await_starts()
        # While the ranks make themselves ready: far from what they time.
        before = job.clocks()
        for rank, share in zip(job.ranks, job.share_of_rank, strict=True):
            rank.clock_offset_s = before[share.number].offset_s
        local = [rank.pid for rank in job.ranks if isinstance(rank, RankProcess)]
        self.placement.watch.ranks_started(local)
        self._collect(job, deadline, memory)
        job.gather()
        self.clock.stop([rank.timing_s for rank in job.ranks])
        self.clock.offsets = job.offsets(before)
        self.placement.watch.ranks_reported()
        for share in job.shares:
            share.part.reported()
        return deadline

    def _result(self, rank: Rank, kind: bytes, returns: Any, deadline: Deadline) -> Any:
        """What a rank returned. Raises RankUnreadable."""
        frame = rank.frame
        try:
            if frame.kind != kind:
                raise Unreadable(f"an answer of the kind {frame.kind!r} instead of {kind!r}")
            if kind == PLAIN:
                return plain_of(frame.body, returns)
            if kind == PORTABLE:
                return _unpacked(frame.body)
            return unpickled(frame.body, max(UNPICKLE_S, deadline.left_s()))
        except Unreadable as error:
            raise unreadable_of(rank, self.world_size, str(error)) from None

    def _show(self, ranks: Sequence[Rank]) -> None:
        self._progress.show([rank.status for rank in ranks])

    def _task(
        self,
        job: Job,
        number: int,
        share: JobShare,
        target: Target,
        arguments: bytes,
        kind: bytes,
    ) -> RankTask:
        """What one rank is to do."""
        of_launch = {**self.placement.variables_of(number), **job.environments[number]}
        of_node = range(share.first_rank, share.first_rank + share.ranks)
        place = Place(
            rank=number,
            world_size=self.world_size,
            device=self.placement.devices[number],
            threads=self.placement.threads,
            rendezvous="",
            timeout_s=self.timeout_s,
            launch_variables=(*of_launch, *share.interface_variables),
            gpu_uuid=self.placement.gpu_uuids[number] if self.placement.gpu_uuids else "",
            node=share.node.name,
            local_rank=number - share.first_rank,
            local_world_size=share.ranks,
            store=job.store,
            sharing=self.placement.sharing(number, of_node),
        )
        environment, unset = self._environment(share, of_launch)
        return RankTask(
            place=place,
            target=target,
            arguments=arguments,
            kind=kind,
            directory=os.getcwd(),
            sys_path=share.node.side.sys_path,
            environment=environment,
            unset=unset,
            cores=self.placement.cores_of(number),
        )

    def _environment(
        self, share: JobShare, of_launch: Mapping[str, str]
    ) -> tuple[dict[str, str], tuple[str, ...]]:
        """The variables of a rank on top of its fork server's, the later ones winning, and those
        that it must not have. `of_launch`: those that this rank has for this launch alone."""
        changed, removed = changes(share.node.environment)
        of_side = share.node.side.variables
        environment = {
            **changed,
            **of_side,
            **self.environment,
            **share.interface_variables,
            **share.users_interfaces,
            **of_launch,
            "OMP_NUM_THREADS": str(self.placement.threads),
        }
        return environment, tuple(name for name in removed if name not in of_side)

    def _collect(self, job: Job, deadline: Deadline, memory: OomWatch) -> None:
        """Returns when every rank has reported a result; raises on the first failure or at the
        deadline."""
        grace: Deadline | None = None
        ranks = job.ranks
        with selectors.DefaultSelector() as selector:
            for share in job.shares:
                share.part.watch(selector)
            while any(rank.pending for rank in ranks):
                left_s = deadline.left_s() if grace is None else grace.left_s()
                # Also when the time is up: what has come by then counts.
                watch = self.placement.watch
                due_s = watch.due_s()
                wake_s = self._wake_s if due_s is None else min(self._wake_s, due_s)
                events = selector.select(min(left_s, wake_s))
                watch.sample()
                for key, _ in events:
                    key.data()
                if left_s <= 0:
                    break
                if not events:
                    self._show(ranks)
                    for share in job.shares:
                        share.part.look()
                if grace is None and any(rank.failed for rank in ranks):
                    grace = Deadline(min(GRACE_S, deadline.left_s()))
        self._check(job, memory)

    def _check(self, job: Job, memory: OomWatch) -> None:
        """Raises the error of a launch that has not ended well."""
        if all(rank.reported and not rank.failed for rank in job.ranks):
            return
        job.confirm_ends()
        if any(rank.failed for rank in job.ranks):
            job.gather()
            raise failure_of(job.ranks, memory)
        for share in job.shares:
            if silence := share.part.silence:
                raise silence
        job.gather(stacks=True)
        if any(rank.lost for rank in job.ranks):
            raise failure_of(job.ranks, memory)
        raise hang_of(job.ranks, self.timeout_s)


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


def _unpacked(body: bytes) -> Any:
    from pytest_dnnbench.portable import unpacked

    try:
        return unpacked(body)
    except ValueError as error:
        raise Unreadable(f"a result that cannot be read here: {error}") from None


def _always(placement: Placement) -> PlacementSource:
    """The same placement for every launch."""

    @contextmanager
    def source(world_size: int) -> Iterator[Placement]:
        yield placement

    return source
