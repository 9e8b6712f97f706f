"""The agent of a node: what the engine starts there once for a session. It is the controller of the
ranks of its own node: it is told what to do over its stdin, and answers on its stdout
(agent_messages.py).

    stdin ──> reader thread ──> main thread ──> LocalPart ── fork server ── ranks
    stdout <────────────────────────┘

Started as `python -m pytest_dnnbench.controller.agent VERSION`. It listens nowhere. When its stdin
closes, in whatever way the pytest process went, it ends at once: the kernel frees its leases, and
the fork server, whose socket closes, kills the ranks and removes their files. No torch here.
"""

import contextlib
import importlib.metadata
import os
import platform
import selectors
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from pytest_dnnbench.controller import agent_messages as say
from pytest_dnnbench.controller.agent_messages import GREETING, BadFrame
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.launch_part import LocalPart, RankTask
from pytest_dnnbench.controller.leases import Leases
from pytest_dnnbench.controller.machine import detect
from pytest_dnnbench.controller.oom_kills import OomWatch
from pytest_dnnbench.controller.placement import Placement, Placements
from pytest_dnnbench.controller.rank_clock import LaunchClock
from pytest_dnnbench.controller.route import addresses, boot_id, route_to, speeds
from pytest_dnnbench.controller.this_node import beside
from pytest_dnnbench.errors import DnnbenchError, LaunchError, UsageError
from pytest_dnnbench.installed import differences, packages

_READ_BYTES = 1 << 16
"""What a pipe holds: a larger buffer for every read costs memory and is never filled."""


class Channel:
    """stdin and stdout of the agent, taken away from everything else in the process."""

    def __init__(self) -> None:
        self.source, self.sink = os.dup(0), os.dup(1)
        for descriptor in (self.source, self.sink):
            os.set_inheritable(descriptor, False)
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)  # what an import prints must not land among the frames
        self.waiting: deque[say.Message] = deque()
        self.wake, self._wake_end = os.pipe()
        self._write(GREETING)

    def read_forever(self) -> NoReturn:
        """Takes messages in, for the main thread. Ends the process when there will be no more."""
        frames = say.Frames(say.FromController)
        while True:
            try:
                chunk = os.read(self.source, _READ_BYTES)
            except OSError:
                chunk = b""
            if not chunk:
                os._exit(0)
            try:
                for message in frames.take(chunk):
                    self.queue(message)
            except BadFrame as error:
                print(f"the controller sent {error}", file=sys.stderr, flush=True)
                os._exit(1)

    def queue(self, message: say.Message) -> None:
        """Hands the main thread a message; from any thread, and from a signal's handler."""
        self.waiting.append(message)
        os.write(self._wake_end, b".")

    def send(self, message: say.Message) -> None:
        """Sends a message. Without a controller the agent ends."""
        self._write(say.framed(message))

    def _write(self, frame: bytes) -> None:
        rest = memoryview(frame)
        try:
            while rest:
                rest = rest[os.write(self.sink, rest) :]
        except OSError:
            os._exit(0)


class Agent:
    """Answers requests until there are no more."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.server = ForkServer(())
        self.placements: Placements | None = None
        self.part: LocalPart | None = None
        self.memory = OomWatch()
        self.clock = LaunchClock()
        self._told_ends: set[int] = set()
        """The processes of the launch whose ends the controller was told."""
        self.placement: Placement | None = None
        self._lease = contextlib.ExitStack()
        self._beside = contextlib.ExitStack()
        self._selector = selectors.DefaultSelector()
        self._selector.register(channel.wake, selectors.EVENT_READ, self._requests)
        self._answers: dict[type, Callable[[Any], say.Reply]] = {
            say.Hello: self._hello,
            say.Ready: self._ready,
            say.Ping: lambda ping: say.Pong(ping.token, clock_s=time.monotonic()),
            say.Route: self._route,
            say.Lease: self._take_lease,
            say.Begin: self._begin,
            say.Spawn: self._spawn,
            say.Poll: self._look,
            say.ConfirmEnds: self._confirm_ends,
            say.Gather: self._gather,
            say.Reported: self._reported,
            say.Kill: self._kill,
            say.End: self._end,
            say.Release: self._release,
        }

    def serve(self) -> NoReturn:
        """Answers, and passes on what ranks send."""
        while True:
            events = self._selector.select(self._due_s())
            self._sample()
            for key, _ in events:
                if key.fileobj in self._selector.get_map():  # an earlier event may have ended it
                    key.data()

    def _due_s(self) -> float | None:
        """Seconds until the GPUs of running ranks are to be read; None: only a message wakes."""
        return self.placement.watch.due_s() if self.placement and self._ranks_run else None

    def _sample(self) -> None:
        if self.placement and self._ranks_run:
            self.placement.watch.sample()

    @property
    def _ranks_run(self) -> bool:
        return self.part is not None and bool(self.part.ranks)

    def _requests(self) -> None:
        os.read(self.channel.wake, 4096)
        while self.channel.waiting:
            message = self.channel.waiting.popleft()
            reply = message if isinstance(message, say.Terminated) else self._answer(message)
            self.channel.send(reply)

    def _answer(self, request: Any) -> say.Reply:
        try:
            return self._answers[type(request)](request)
        except DnnbenchError as error:
            return say.Refused(request.token, error=type(error).__name__, message=str(error))
        except Exception as error:  # as a full disk: the controller shows it, and goes on
            message = f"{type(error).__name__}: {error}"
            return say.Refused(request.token, error="LaunchError", message=message)

    def _hello(self, hello: say.Hello) -> say.Welcome:
        # Before the path: another Python cannot use it.
        _must_be_alike({"Python": platform.python_version()}, {"Python": hello.python})
        try:
            os.chdir(hello.directory)
        except OSError as error:
            raise UsageError(
                f"the folder {hello.directory} cannot be entered there ({error.strerror}): run in"
                " one that all nodes share"
            ) from None
        sys.path[:] = hello.sys_path
        _must_be_alike(packages(), hello.packages)
        os.environ.update(hello.environment)
        machine = detect(hello.device)
        self.server = ForkServer(hello.preload)
        self.server.start()
        self.placements = Placements(
            machine,
            Leases(timeout_s=hello.lease_timeout_s, announce=self._notice),
            (),
            timed=hello.timed,
            side_by_side=False,
            server_pid=lambda: self.server.pid,
        )
        return say.Welcome(
            hello.token,
            machine=machine,
            addresses=addresses(),
            speeds=speeds(),
            boot_id=boot_id(),
            hostname=platform.node(),
            pid=os.getpid(),
        )

    def _notice(self, line: str) -> None:
        self.channel.send(say.Notice(line.removeprefix("dnnbench: ")))

    def _ready(self, ready: say.Ready) -> say.Done:
        self.server.wait_ready(ready.timeout_s)
        return say.Done(ready.token)

    def _route(self, route: say.Route) -> say.Routed:
        interface, source = route_to(route.address)
        return say.Routed(route.token, interface=interface, source=source)

    def _take_lease(self, lease: say.Lease) -> say.Leased:
        if self.placements is None:
            raise LaunchError("an agent is told who it is before it leases")
        self._lease.close()
        placed = self.placements(lease.ranks, leased=lease.leased)
        self.placement = placement = self._lease.enter_context(placed)
        return say.Leased(
            lease.token,
            devices=placement.devices,
            threads=placement.threads,
            cores=placement.cores,
            gpu_uuids=placement.gpu_uuids,
            rank_cores=placement.rank_cores,
            rank_variables=placement.rank_variables,
        )

    def _begin(self, begin: say.Begin) -> say.Begun:
        self._close_launch()
        self.server.start()
        self.server.wait_ready(begin.timeout_s)
        self.part = LocalPart(self.server, begin.timeout_s, forward=self._forward)
        self._beside.callback(self.part.close)
        port = self.part.listen(begin.address) if begin.address else 0
        environments: Sequence[Mapping[str, str]] = ()
        if begin.rendezvous:
            environments = self._beside.enter_context(beside(begin.rendezvous, begin.hosts))
        self.memory, self.clock, self._told_ends = OomWatch(), LaunchClock(), set()
        return say.Begun(begin.token, port=port, environments=[dict(each) for each in environments])

    def _launch(self) -> LocalPart:
        if self.part is None:
            raise LaunchError("no launch has begun")
        return self.part

    def _spawn(self, spawn: say.Spawn) -> say.Spawned:
        part = self._launch()
        task = RankTask(**{name: getattr(spawn, name) for name in RankTask.__dataclass_fields__})
        rank = part.start(task)
        if self.server.fileno() not in self._watched():
            self._selector.register(self.server.fileno(), selectors.EVENT_READ, self._exits)
        self._selector.register(rank.pipe, selectors.EVENT_READ, lambda: self._read(rank))
        return say.Spawned(spawn.token, pid=rank.pid)

    def _watched(self) -> set[int]:
        return {key.fd for key in self._selector.get_map().values()}

    def _forward(self, number: int, chunk: bytes) -> None:
        self.channel.send(say.AnswerChunk(number, chunk))

    def _read(self, rank: Any) -> None:
        if not rank.read():
            self._selector.unregister(rank.pipe)

    def _exits(self) -> None:
        try:
            self._launch().note_exits(0.0)
        except LaunchError:  # the fork server has died, and the kernel has ended its ranks
            for rank in self._launch().ranks:
                if rank.exit_code is None:
                    rank.ended(-signal.SIGKILL)
            self._unwatch()
        self._tell_ends()

    def _tell_ends(self) -> None:
        for rank in self._launch().ranks:
            if rank.exit_code is not None and rank.pid not in self._told_ends:
                self._told_ends.add(rank.pid)
                killed = self.memory.killed()
                self.channel.send(say.RankExited(rank.number, rank.exit_code, killed))

    def _confirm_ends(self, confirm: say.ConfirmEnds) -> say.Done:
        if self.part is not None:
            self.part.confirm_ends()
            self._tell_ends()
            for key, _ in self._selector.select(0):  # what ranks have sent, and a server's death
                if key.data != self._requests and key.fileobj in self._selector.get_map():
                    key.data()
        return say.Done(confirm.token)

    def _look(self, look: say.Poll) -> say.Done:
        ranks = self.part.ranks if self.part else []
        self.channel.send(say.Statuses([(rank.number, rank.status) for rank in ranks]))
        return say.Done(look.token)

    def _gather(self, gather: say.Gather) -> say.Gathered:
        part = self._launch()
        part.ask_gather(stacks=gather.stacks)
        part.gather()
        return say.Gathered(gather.token, ranks=self._views(), oom_killed=self.memory.killed())

    def _views(self) -> list[say.RankView]:
        ranks = self.part.ranks if self.part else []
        self.clock.stop([rank.timing_s for rank in ranks])
        timings = self.clock.timings_s or (0.0,) * len(ranks)
        return [
            say.RankView(
                rank.number,
                rank.status,
                rank.stopped,
                timing_s,
                rank.last_output(),
                rank.stack_text(),
            )
            for rank, timing_s in zip(ranks, timings, strict=True)
        ]

    def _reported(self, reported: say.Reported) -> say.Done:
        if self.placement is not None:
            self.placement.watch.ranks_reported()
        return say.Done(reported.token)

    def _kill(self, kill: say.Kill) -> say.Done:
        if self.part is not None:
            self.part.ask_end(orderly=False)
        return say.Done(kill.token)

    def _end(self, end: say.End) -> say.Gathered:
        if self.part is None:
            return say.Gathered(end.token, ranks=[], oom_killed=False)
        self._unwatch()
        if self.placement is not None:
            self.placement.watch.ranks_started([rank.pid for rank in self.part.ranks])
        timings = self._views()
        self.part.end(end.orderly)
        # The page of a rank is gone with it: of the end, only the output is newer.
        views = [
            msgspec.structs.replace(view, output=rank.last_output())
            for view, rank in zip(timings, self.part.ranks, strict=True)
        ]
        self._close_launch()
        return say.Gathered(end.token, ranks=views, oom_killed=self.memory.killed())

    def _unwatch(self) -> None:
        for descriptor in self._watched() - {self.channel.wake}:
            self._selector.unregister(descriptor)

    def _close_launch(self) -> None:
        self._unwatch()
        self._beside.close()
        self.part = None

    def _release(self, release: say.Release) -> say.Released:
        self._lease.close()
        placement, self.placement = self.placement, None
        if placement is None:
            raise LaunchError("nothing is leased")
        (samples,) = placement.gpu_samples
        return say.Released(release.token, conditions=placement.conditions, samples=samples.samples)


def _must_be_alike(theirs: Mapping[str, str | None], ours: Mapping[str, str | None]) -> None:
    """Raises UsageError for versions on this node that differ from those of the pytest process."""
    if different := differences(theirs, ours):
        raise UsageError(f"{different}: give every node the same environment")


def end_agent(pid: int) -> None:
    """Kills an agent of this node, and no other process: its number may be another's by now."""
    with contextlib.suppress(OSError):
        if __spec__.name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)


def main() -> NoReturn:
    """Serves a controller of the version that it is given, until stdin closes. With "--end PID" it
    ends another agent, which is stopped."""
    first, *more = sys.argv[1:]
    if first == say.END:
        end_agent(int(more[0]))
        sys.exit()
    version = importlib.metadata.version("pytest-dnnbench")
    if first != version:
        sys.exit(f"pytest-dnnbench {version} there and {first} here: install the same on all nodes")
    channel = Channel()
    agent = Agent(channel)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(
            number, lambda received, _: channel.queue(say.Terminated(signal.Signals(received).name))
        )
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=channel.read_forever, name="dnnbench-stdin", daemon=True).start()
    agent.serve()


if __name__ == "__main__":
    main()
