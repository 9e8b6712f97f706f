"""Another node of a session, by way of its agent (agent.py): its devices, its network, its leases
and its part of a launch.

    pytest process                                             the node
    RemoteNode ── stdin ──> ssh, srun, nsenter, ... ── stdin ──> agent ── fork server ── ranks
               <─ stdout ──                        <─ stdout ──

A node whose agent ends, sends what is no message, or does not answer in time is lost: its ranks
count as ended, and the next launch starts a new agent. The agent ends with its ranks when its stdin
closes, in whatever way this process goes.

Not here: requests and replies (agent_link.py), the ranks of a launch (remote_part.py).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from pytest_dnnbench.controller import agent_messages as say
from pytest_dnnbench.controller.agent_link import ANSWER_S, AgentLink
from pytest_dnnbench.controller.engines import Engine
from pytest_dnnbench.controller.gpu_samples import GpuSamples
from pytest_dnnbench.controller.machine import Machine
from pytest_dnnbench.controller.placement import Placement
from pytest_dnnbench.controller.rank_clock import ClockOffset
from pytest_dnnbench.controller.remote_part import RemotePart
from pytest_dnnbench.controller.route import Host
from pytest_dnnbench.controller.side import Side
from pytest_dnnbench.controller.this_node import NodeLaunch
from pytest_dnnbench.errors import LaunchError
from pytest_dnnbench.harmless import one_line

CONNECT_S = 120.0
"""How long the engine may take to start an agent: a batch system waits for the node's daemon."""

LEAST_CONNECT_S = 10.0
"""How long an agent may take to answer, however long ago it was started."""

ROUND_TRIPS = 8
"""How many times the clock of a node is asked; the shortest round trip counts."""


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
        self.link = AgentLink(name, engine, unasked=self._unasked, lost=self._lost)
        self._hello = hello
        self._announce = announce
        self._stop = stop
        self._part: RemotePart | None = None
        self._started_s = 0.0
        self._welcomed = self._ready = 0
        """The agent that was welcomed, and the one that was ready, by the count of starts."""

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
    def speeds(self) -> dict[str, int]:
        """The nominal speeds of its network in Mbit/s, by interface, once it has been connected."""
        assert self.welcome is not None, "connect() comes first"
        return self.welcome.speeds

    @property
    def boot_id(self) -> str:
        """What identifies the running kernel of its machine, once it has been connected."""
        assert self.welcome is not None, "connect() comes first"
        return self.welcome.boot_id

    @property
    def environment(self) -> dict[str, str]:
        """The pytest process's environment when the agent was started."""
        return self.link.environment

    @property
    def side(self) -> Side:
        """The pytest process's own: comparisons with another environment stay on one machine."""
        return Side()

    @property
    def pid(self) -> int | None:
        """The engine's process for this node; None while there is none."""
        return self.link.pid

    def start(self) -> None:
        """Starts the agent, unless it runs, and returns before it answers."""
        before = self.link.starts
        self.link.start()
        if self.link.starts != before:
            self._started_s = time.monotonic()

    def refresh(self) -> None:
        """Between launches: starts the agent, anew where it has ended since the last one, which is
        said and fails nothing, and returns before it answers. Hears what came meanwhile."""
        try:
            self.link.receive_waiting()
        except LaunchError as error:
            self._announce(one_line(f"dnnbench: {error}; a new agent is started there"))
        self.start()

    def connect(self) -> say.Welcome:
        """Starts the agent, unless it runs, and waits until it has said what the node is. Raises
        LaunchError, or UsageError for a node on which ranks of this session cannot run."""
        self.start()
        if self.welcome is None or self._welcomed != self.link.starts:
            # Of nodes that were started together, none waits for another's wait to be over.
            left_s = CONNECT_S - (time.monotonic() - self._started_s)
            self.welcome = self.link.call(self._hello(), say.Welcome, max(LEAST_CONNECT_S, left_s))
            self._welcomed, self.link.agent_pid = self.link.starts, self.welcome.pid
        return self.welcome

    def wait_ready(self, timeout_s: float) -> None:
        """Returns when the node's fork server is ready to fork."""
        self.connect()
        if self._ready != self.link.starts:
            self.link.call(say.Ready(timeout_s=timeout_s), say.Done, timeout_s + ANSWER_S)
            self._ready = self.link.starts

    def clock(self) -> ClockOffset:
        """How the node's clock differs from ours: the shortest of several round trips, in whose
        middle, give or take half of it, the node read its clock."""
        trips = []
        for _ in range(ROUND_TRIPS):
            begun_s = time.monotonic()
            theirs_s = self.link.call(say.Ping(), say.Pong, ANSWER_S).clock_s
            ended_s = time.monotonic()
            middle_s = (begun_s + ended_s) / 2
            trips.append((ended_s - begun_s, theirs_s - middle_s))
        trip_s, offset_s = min(trips)
        return ClockOffset(offset_s, trip_s / 2)

    def route_to(self, address: str) -> tuple[str, str]:
        """The interface by which the node reaches an address, and its own address there."""
        routed = self.link.call(say.Route(address=address), say.Routed, ANSWER_S)
        return routed.interface, routed.source

    @contextmanager
    def lease(self, ranks: int, timeout_s: float, *, leased: bool) -> Iterator[Placement]:
        """The devices of so many ranks on the node (placement.Placements)."""
        taken = self.link.call(say.Lease(ranks=ranks, leased=leased), say.Leased, timeout_s)
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
                    released = self.link.call(say.Release(), say.Released, ANSWER_S)
                    placement.conditions = released.conditions
                    samples = GpuSamples(tuple(released.samples), samples=released.samples)
                    placement.gpu_samples = (samples,)

    @contextmanager
    def launch(
        self, timeout_s: float, hosts: Sequence[Host], *, address: str = "", rendezvous: str = ""
    ) -> Iterator[NodeLaunch]:
        """As LaunchNode.launch."""
        self._part = part = RemotePart(self.link, timeout_s)
        begin = say.Begin(
            timeout_s=timeout_s, address=address, rendezvous=rendezvous, hosts=list(hosts)
        )
        part.begin(begin)
        # The others' answers say nothing that the launch waits for here: all begin side by side.
        if address or rendezvous:
            part.await_begin()
        yield NodeLaunch(part, part.begun.port, part.begun.environments)

    def close(self) -> None:
        """Ends the agent: closes its stdin, and kills the engine's process for it if it stays."""
        self.link.close()

    def begin_close(self) -> None:
        """Begins to, and returns; `close` waits for it."""
        self.link.begin_close()

    def _unasked(self, message: say.Message) -> None:
        match message:
            case say.Notice(line=line):
                self._announce(one_line(f"dnnbench: node {self.name}: {line}"))
            case say.Terminated(signal=name):
                self._stop(f"node {self.name} was told to end by {one_line(name)}")
            case _:
                if self._part is not None:
                    self._part.take(message)

    def _lost(self, why: str) -> None:
        if self._part is not None:
            self._part.lost(why)
