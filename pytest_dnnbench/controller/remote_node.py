"""Another node, by way of its agent (agent.py): the process that the engine started there, the
messages to and from it, and its part of a launch.

    pytest process                                             the node
    RemoteNode ── stdin ──> ssh, srun, nsenter, ... ── stdin ──> agent ── fork server ── ranks
               <─ stdout ──                        <─ stdout ──

A node whose process ends, sends what is no message, or does not answer in time is lost: its ranks
count as ended, its process is killed, and the next launch starts a new one. The agent ends with its
ranks when its stdin closes, in whatever way this process goes.
"""

import os
import select
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, Any, TypeVar

import msgspec

from pytest_dnnbench import errors
from pytest_dnnbench.controller import agent_messages as say
from pytest_dnnbench.controller.agent_messages import GREETING, MOST_GREETING_BYTES, BadFrame
from pytest_dnnbench.controller.deadline import LOOK_S, Deadline
from pytest_dnnbench.controller.engines import Engine
from pytest_dnnbench.controller.launch_part import EXIT_S, RankTask
from pytest_dnnbench.controller.machine import Machine
from pytest_dnnbench.controller.placement import Placement
from pytest_dnnbench.controller.rank_clock import ClockOffset
from pytest_dnnbench.controller.rank_process import Rank
from pytest_dnnbench.controller.route import Host
from pytest_dnnbench.controller.side import Side
from pytest_dnnbench.controller.this_node import NodeLaunch
from pytest_dnnbench.errors import DnnbenchError, LaunchError, UsageError
from pytest_dnnbench.harmless import one_line
from pytest_dnnbench.rank_status import RankStatus

AGENT = "pytest_dnnbench.controller.agent"

CONNECT_S = 120.0
"""How long the engine may take to start an agent: a batch system waits for the node's daemon."""

ANSWER_S = 20.0
"""How long an agent may take for what needs no waiting on its side."""

SILENT_S = 5.0
"""How long an agent may leave a look unanswered before it is asked with little patience."""

ROUND_TRIPS = 8
"""How many times the clock of a node is asked; the shortest round trip counts."""

_READ_BYTES = 1 << 20
_TAIL_BYTES = 4096

Answer = TypeVar("Answer", bound=say.Reply)


@dataclass
class RemoteRank(Rank):
    """A rank on another node. `view` is what its agent last sent about it."""

    view: say.RankView = field(kw_only=True)
    killed_for_memory: bool = field(default=False, kw_only=True)

    @property
    def stopped(self) -> bool:
        """As Rank.stopped."""
        return self.view.stopped

    @property
    def status(self) -> RankStatus:
        """As Rank.status."""
        return self.view.status

    @property
    def timing_s(self) -> float:
        """As Rank.timing_s."""
        return self.view.timing_s

    @property
    def oom_killed(self) -> bool | None:
        """As Rank.oom_killed."""
        return self.killed_for_memory

    def last_output(self) -> str:
        """As Rank.last_output."""
        return self.view.output

    def stack_text(self) -> str:
        """As Rank.stack_text."""
        return self.view.stacks.strip()


class RemoteNode:
    """One node of a session. `hello` is what its agent is told first; `announce` shows a line to
    the user; `stop` is called when the node's engine tells its agent to end."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        hello: Callable[[], say.Hello],
        *,
        announce: Callable[[str], None] = lambda _: None,
        stop: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.name = name
        self.welcome: say.Welcome | None = None
        self._engine = engine
        self._hello = hello
        self._announce = announce
        self._stop = stop
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._frames = say.Frames(say.FromAgent)
        self._before_greeting: bytearray | None = bytearray()
        self._replies: dict[int, say.Reply] = {}
        self._unanswered: dict[int, float] = {}
        self._tokens = 0
        self._ready = self._welcomed = False
        self.ranks: dict[int, RemoteRank] = {}
        self.environment: dict[str, str] = {}
        """The pytest process's environment when the agent was started."""

    @property
    def machine(self) -> Machine:
        """The devices of the node, once it has been connected."""
        assert self.welcome is not None, "connect() comes first"
        return self.welcome.machine

    @property
    def addresses(self) -> dict[str, str]:
        """Its addresses, by interface, once it has been connected."""
        assert self.welcome is not None, "connect() comes first"
        return self.welcome.addresses

    @property
    def boot_id(self) -> str:
        """What identifies the running kernel of its machine, once it has been connected."""
        assert self.welcome is not None, "connect() comes first"
        return self.welcome.boot_id

    @property
    def side(self) -> Side:
        """The pytest process's own: comparisons with another environment stay on one machine."""
        return Side()

    def start(self) -> None:
        """Starts the agent, unless it runs, and returns before it answers."""
        if self._process is not None:
            return
        program = [sys.executable, "-m", AGENT]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._frames = say.Frames(say.FromAgent)
        self._before_greeting, self._replies, self._unanswered = bytearray(), {}, {}
        self._ready = self._welcomed = False
        self.environment = dict(os.environ)
        command = self._engine.command(self.name, program)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,  # Ctrl-C is the pytest process's affair alone
            )
        except OSError as error:
            raise UsageError(
                f"node {self.name}: {command[0]} cannot be started ({error}): change"
                " --dnn-engine-command, or --dnn-engine"
            ) from None
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)

    def connect(self) -> say.Welcome:
        """Starts the agent, unless it runs, and waits until it has said what the node is. Raises
        LaunchError, or UsageError for a node on which ranks of this session cannot run."""
        self.start()
        if self.welcome is None or not self._welcomed:
            self.welcome = self.call(self._hello(), say.Welcome, CONNECT_S)
            self._welcomed = True
        return self.welcome

    def wait_ready(self, timeout_s: float) -> None:
        """Returns when the node's fork server is ready to fork."""
        self.connect()
        if not self._ready:
            self.call(say.Ready(timeout_s=timeout_s), say.Done, timeout_s + ANSWER_S)
            self._ready = True

    def clock(self) -> ClockOffset:
        """How the node's clock differs from ours: the shortest of several round trips, in whose
        middle, give or take half of it, the node read its clock."""
        trips = []
        for _ in range(ROUND_TRIPS):
            begun_s = time.monotonic()
            theirs_s = self.call(say.Ping(), say.Pong, ANSWER_S).clock_s
            ended_s = time.monotonic()
            middle_s = (begun_s + ended_s) / 2
            trips.append((ended_s - begun_s, theirs_s - middle_s))
        trip_s, offset_s = min(trips)
        return ClockOffset(offset_s, trip_s / 2)

    def route_to(self, address: str) -> tuple[str, str]:
        """The interface by which the node reaches an address, and its own address there."""
        routed = self.call(say.Route(address=address), say.Routed, ANSWER_S)
        return routed.interface, routed.source

    @contextmanager
    def lease(self, ranks: int, timeout_s: float, *, leased: bool) -> Iterator[Placement]:
        """The devices of so many ranks on the node (placement.Placements)."""
        taken = self.call(say.Lease(ranks=ranks, leased=leased), say.Leased, timeout_s)
        placement = Placement(
            taken.devices,
            taken.threads,
            taken.cores,
            gpu_uuids=taken.gpu_uuids,
            rank_cores=taken.rank_cores,
            rank_variables=taken.rank_variables,
        )
        try:
            yield placement
        finally:
            if self.pid is not None:
                with suppress(LaunchError):
                    released = self.call(say.Release(), say.Released, ANSWER_S)
                    placement.conditions = released.conditions

    @contextmanager
    def launch(
        self, timeout_s: float, hosts: Sequence[Host], *, address: str = "", rendezvous: str = ""
    ) -> Iterator[NodeLaunch]:
        """As LaunchNode.launch."""
        self.ranks = {}
        begin = say.Begin(
            timeout_s=timeout_s, address=address, rendezvous=rendezvous, hosts=list(hosts)
        )
        begun = self.call(begin, say.Begun, timeout_s + ANSWER_S)
        yield NodeLaunch(RemotePart(self, timeout_s), begun.port, begun.environments)

    def call(self, request: say.Request, kind: type[Answer], timeout_s: float) -> Answer:
        """Sends a request and waits for its reply. Raises LaunchError where the node is lost, and
        what the agent refuses with."""
        token = self.ask(request, timeout_s)
        return self.answer(token, kind, timeout_s)

    def ask(self, request: say.Request, timeout_s: float = ANSWER_S) -> int:
        """Sends a request; returns its token, for `answer`."""
        self._tokens += 1
        self._send(msgspec.structs.replace(request, token=self._tokens), timeout_s)
        return self._tokens

    def tell(self, request: say.Request) -> None:
        """Sends a request whose reply says nothing."""
        self._unanswered[self.ask(request)] = time.monotonic()

    @property
    def silent_s(self) -> float:
        """How long the agent has not answered what it was told."""
        return time.monotonic() - min(self._unanswered.values()) if self._unanswered else 0.0

    def answer(self, token: int, kind: type[Answer], timeout_s: float) -> Answer:
        """The reply to a request. Raises as `call`."""
        deadline = Deadline(timeout_s)
        while token not in self._replies:
            if not (left_s := deadline.left_s()):
                raise self.lose(f"it did not answer within {timeout_s:g} s")
            if select.select([self.fileno()], [], [], min(left_s, LOOK_S))[0]:
                self.receive()
        reply = self._replies.pop(token)
        if isinstance(reply, say.Refused):
            raise self._refusal(reply)
        if not isinstance(reply, kind):
            raise self.lose(f"it answered with a {type(reply).__name__}, not a {kind.__name__}")
        return reply

    def fileno(self) -> int:
        """What becomes readable when the agent has sent something."""
        if self._process is None or self._process.stdout is None:
            raise LaunchError(f"node {self.name} is not connected")
        return self._process.stdout.fileno()

    def receive(self) -> None:
        """Takes what has arrived. Raises LaunchError where the node is lost by it."""
        data = os.read(self.fileno(), _READ_BYTES)
        if not data:
            raise self.lose("")
        try:
            for message in self._frames.take(self._greeted(data)):
                self._take(message)
        except BadFrame as error:
            raise self.lose(f"it sent {error}") from None

    def lose(self, why: str) -> LaunchError:
        """Ends a node that no longer answers, and with it its ranks; returns the error. Without a
        reason `why`, its process has ended, and its status says why."""
        process, tail = self._process, self._tail()
        if process is not None and not why:
            with suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
            status = process.poll()
            why = "its connection closed" if status is None else self._engine.ended(status)
            tail = self._tail()
        said = f"; it said: {tail}" if tail else ""
        for rank in self.ranks.values():
            if rank.exit_code is None:
                rank.lost = f"{why}{said}"
        self.close()
        return LaunchError(f"node {self.name} was lost: {why}{said}")

    def close(self) -> None:
        """Ends the agent: closes its stdin, and kills the engine's process for it if it stays."""
        process, self._process = self._process, None
        self._ready = False
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        try:
            process.wait(2.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._errors is not None:
            self._errors.close()

    @property
    def pid(self) -> int | None:
        """The engine's process for this node; None while there is none."""
        return self._process.pid if self._process else None

    def _take(self, message: Any) -> None:
        match message:
            case say.Reply(token=token):
                if self._unanswered.pop(token, None) is None:
                    self._replies[token] = message
            case say.Answer(rank=number, chunk=chunk):
                if rank := self.ranks.get(number):
                    rank.take(chunk)
            case say.Exited(rank=number, code=code, oom_killed=oom_killed):
                if rank := self.ranks.get(number):
                    rank.exit_code, rank.killed_for_memory = code, oom_killed
            case say.Statuses(ranks=statuses):
                for number, status in statuses:
                    if rank := self.ranks.get(number):
                        rank.view = msgspec.structs.replace(rank.view, status=status)
            case say.Notice(line=line):
                self._announce(one_line(f"dnnbench: node {self.name}: {line}"))
            case say.Terminated(signal=name):
                self._stop(f"node {self.name} was told to end by {one_line(name)}")

    def _greeted(self, data: bytes) -> bytes:
        """What follows the agent's greeting. Raises BadFrame where none comes."""
        if self._before_greeting is None:
            return data
        self._before_greeting += data
        head, greeting, rest = bytes(self._before_greeting).partition(GREETING)
        if greeting:
            self._before_greeting = None
            return rest
        if len(head) > MOST_GREETING_BYTES:
            raise BadFrame(f"{len(head):,} bytes that do not begin as an agent does")
        return b""

    def _send(self, message: say.Message, timeout_s: float) -> None:
        if self._process is None or self._process.stdin is None:
            raise LaunchError(f"node {self.name} is not connected")
        stdin, rest = self._process.stdin.fileno(), memoryview(say.framed(message))
        deadline = Deadline(timeout_s)
        while rest:
            if not (left_s := deadline.left_s()):
                raise self.lose(f"it took nothing in for {timeout_s:g} s")
            readable, writable, _ = select.select([self.fileno()], [stdin], [], min(left_s, LOOK_S))
            if readable:  # an agent that waits to be read takes nothing in
                self.receive()
            if writable:
                try:
                    rest = rest[os.write(stdin, rest) :]
                except BrokenPipeError:
                    raise self.lose("") from None

    def _refusal(self, reply: say.Refused) -> DnnbenchError:
        kind = getattr(errors, reply.error, LaunchError)
        usable = isinstance(kind, type) and issubclass(kind, (UsageError, LaunchError))
        chosen: type[DnnbenchError] = kind if usable else LaunchError
        return chosen(f"node {self.name}: {reply.message}")

    def _tail(self) -> str:
        """The end of what the engine and the agent have written to stderr, in one line."""
        if self._errors is None or self._errors.closed:
            return ""
        size = os.fstat(self._errors.fileno()).st_size
        tail = os.pread(self._errors.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        lines = [line.strip() for line in tail.decode(errors="replace").splitlines()]
        before = bytes(self._before_greeting or b"").decode(errors="replace").splitlines()
        return one_line(" / ".join([line for line in [*before, *lines] if line][-5:]))


class RemotePart:
    """The ranks of a launch on another node. Implements launch_part.LaunchPart."""

    def __init__(self, node: RemoteNode, timeout_s: float) -> None:
        self.node = node
        self.timeout_s = timeout_s
        self._ending = 0

    @property
    def ranks(self) -> Sequence[RemoteRank]:
        """As LaunchPart.ranks."""
        return list(self.node.ranks.values())

    def start(self, task: RankTask) -> RemoteRank:
        """Starts one rank on the node."""
        fields = {row: getattr(task, row) for row in task.__dataclass_fields__}
        fields["environment"] = dict(task.environment)
        spawned = self.node.call(say.Spawn(**fields), say.Spawned, self.timeout_s)
        number = task.place.rank
        view = say.RankView(number, RankStatus("start"), False, 0.0, "", "")
        rank = RemoteRank(number, spawned.pid, node=self.node.name, view=view)
        # Nothing of the rank can have come before the reply: the agent sends in order.
        self.node.ranks[number] = rank
        return rank

    def watch(self, selector: selectors.BaseSelector) -> None:
        """As LaunchPart.watch."""
        descriptor = self.node.fileno()

        def receive() -> None:
            try:
                self.node.receive()
            except LaunchError:  # its ranks say so
                selector.unregister(descriptor)

        selector.register(descriptor, selectors.EVENT_READ, receive)

    def look(self) -> None:
        """As LaunchPart.look; not while the last look is unanswered. A node that takes nothing in
        is lost."""
        if self.node.pid is None or self.node.silent_s > 0:
            return
        with suppress(LaunchError):
            self.node.tell(say.Look())

    def gather(self, *, stacks: bool) -> None:
        """As LaunchPart.gather. A node that does not answer is lost."""
        if self.node.pid is None:
            return
        with suppress(LaunchError):
            patience_s = 1.0 if self.node.silent_s > SILENT_S else ANSWER_S
            gathered = self.node.call(say.Gather(stacks=stacks), say.Gathered, patience_s)
            for view in gathered.ranks:
                if rank := self.node.ranks.get(view.number):
                    rank.view = view

    def reported(self) -> None:
        """As LaunchPart.reported."""
        self.node.call(say.Reported(), say.Done, ANSWER_S)

    @property
    def silence(self) -> LaunchError | None:
        """None: a silent node is noticed by `gather`."""
        return None

    def ask_end(self, orderly: bool) -> None:
        """As LaunchPart.ask_end."""
        self._ending = 0
        if self.node.pid is None:
            return
        with suppress(LaunchError):
            if not orderly:
                self.node.tell(say.Kill())
            self._ending = self.node.ask(say.End(orderly=orderly))

    def end(self, orderly: bool) -> None:
        """As LaunchPart.end."""
        if self.node.pid is None or not self._ending:
            return
        with suppress(LaunchError):
            gathered = self.node.answer(self._ending, say.Gathered, 2 * EXIT_S + ANSWER_S)
            for view in gathered.ranks:
                if rank := self.node.ranks.get(view.number):
                    rank.view = view
