"""Cluster: the nodes of a session, what they have together, and how they reach each other.

Not here: how a launch gets devices on them (node_placement.py).
"""

import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Protocol

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.machine import Machine
from pytest_dnnbench.controller.placement import Placement, Placements
from pytest_dnnbench.controller.remote_node import RemoteNode
from pytest_dnnbench.controller.route import (
    LOOPBACK_INTERFACE,
    Host,
    addresses,
    boot_id,
    route_to,
    speeds,
)
from pytest_dnnbench.controller.this_node import LaunchNode, ThisNode
from pytest_dnnbench.errors import LaunchError, UsageError

LOOPBACK = Host("127.0.0.1", LOOPBACK_INTERFACE, 0)
"""How the ranks of one machine reach each other."""


class Node(LaunchNode, Protocol):
    """A node of a session."""

    @property
    def machine(self) -> Machine:
        """Its devices."""

    @property
    def addresses(self) -> Mapping[str, str]:
        """Its addresses, by interface."""

    @property
    def speeds(self) -> Mapping[str, int]:
        """The nominal speeds of its network in Mbit/s, by interface."""

    @property
    def boot_id(self) -> str:
        """What identifies the running kernel of its machine."""

    def connect(self) -> object:
        """Makes sure that it answers. Raises LaunchError, or UsageError where it cannot take
        part."""

    def route_to(self, address: str) -> tuple[str, str]:
        """The interface by which it reaches an address, and its own address there."""

    def lease(
        self, ranks: int, timeout_s: float, *, leased: bool
    ) -> AbstractContextManager[Placement]:
        """The devices of so many ranks on it."""

    def close(self) -> None:
        """Ends what runs on it."""


class HereNode(ThisNode):
    """This machine, as one node of several. Implements Node."""

    def __init__(self, name: str, server: ForkServer, placements: Placements) -> None:
        super().__init__(name, server)
        self.placements = placements
        self.machine = placements.machine
        self.addresses = addresses()
        self.speeds = speeds()
        self.boot_id = boot_id()

    def connect(self) -> None:
        """It is here."""

    def route_to(self, address: str) -> tuple[str, str]:
        """As Node.route_to."""
        return route_to(address)

    @contextmanager
    def lease(self, ranks: int, timeout_s: float, *, leased: bool) -> Iterator[Placement]:
        """As Node.lease."""
        with self.placements(ranks, leased=leased) as placement:
            yield placement

    def close(self) -> None:
        """As Node.close."""
        self.server.close()


class Cluster:
    """The nodes of a session, in the order in which ranks are placed on them.

    `spread`: use so many nodes for every launch that has as many ranks; None: as few as the ranks
    fit on. `ranks_per_node` is the most ranks that a node takes; None: one per GPU or, on CPU
    ranks, one per core. `interface` is the network to use; None: the one that routes lead to.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        *,
        spread: int | None = None,
        ranks_per_node: int | None = None,
        interface: str | None = None,
    ) -> None:
        self.nodes = list(nodes)
        self.lost: dict[str, str] = {}
        """Why nodes cannot be had, by name."""
        self._spread = spread
        self._ranks_per_node = ranks_per_node
        self._interface = interface
        self._hosts: dict[tuple[str, ...], list[Host]] = {}

    def connect(self) -> None:
        """Starts the agents, all at once, and waits for them. Raises UsageError naming the node for
        one that cannot take part; none is left running then."""
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            try:
                for node in self.nodes:
                    if isinstance(node, RemoteNode):
                        node.start()
                for node in self.nodes:
                    node.connect()
            except LaunchError as error:
                raise UsageError(
                    f"{error}: see that its engine can start a process there"
                ) from None
            self._check()
            on_failure.pop_all()

    def _check(self) -> None:
        kinds = {node.machine.kind: node.name for node in self.nodes}
        if len(kinds) > 1:
            names = ", ".join(f"{name} has {kind}" for kind, name in kinds.items())
            raise UsageError(
                f"the nodes have different devices ({names}): choose with --dnn-device, or name"
                " nodes that are alike"
            )
        gpus = [gpu.uuid for node in self.nodes for gpu in node.machine.gpus]
        twice = {uuid for uuid in gpus if gpus.count(uuid) > 1}
        if twice:
            raise UsageError(
                f"several nodes have the GPU {min(twice)}: they are one machine, so name it once"
            )

    @property
    def machine(self) -> Machine:
        """What the nodes have together, as one machine with all devices."""
        machines = [node.machine for node in self.nodes]
        first = machines[0]
        return Machine(
            kind=first.kind,
            gpus=tuple(gpu for machine in machines for gpu in machine.gpus),
            driver=_joined(machine.driver for machine in machines),
            cores=sum(machine.cores for machine in machines),
            cpu=_joined(machine.cpu for machine in machines) or "",
            why=f"{first.why}; nodes {', '.join(node.name for node in self.nodes)}",
        )

    def capacity(self, node: Node) -> int:
        """The most ranks that a node takes."""
        machine = node.machine
        has = len(machine.gpus) if machine.kind == "cuda" else machine.cores
        return has if self._ranks_per_node is None else min(has, self._ranks_per_node)

    def ranks_per_node(self, world_size: int, nodes: Sequence[Node] | None = None) -> list[int]:
        """How many of the ranks run on each node, the leading one first; as many on each as can be.
        Raises LaunchError where the nodes are too few."""
        nodes = self.nodes if nodes is None else nodes
        least = min(self._spread or 1, world_size)
        for count in range(least, len(nodes) + 1):
            if shares := _divided(world_size, [self.capacity(node) for node in nodes[:count]]):
                return shares
            if self._spread is not None:
                break
        if self.machine.kind == "cpu" and self._ranks_per_node is None:
            # CPU ranks may outnumber the cores; the record says so.
            count = min(self._spread or len(nodes), world_size, len(nodes))
            return _divided(world_size, [world_size] * count)
        raise LaunchError(
            f"{world_size} ranks do not fit on {len(nodes)} nodes:"
            f" {', '.join(f'{node.name} takes {self.capacity(node)}' for node in nodes)};"
            " give fewer ranks (--gpus), or more nodes (--dnn-nodes)"
        )

    def nodes_for(self, world_size: int) -> int:
        """How many nodes a launch of so many ranks takes; 1 where it fits nowhere."""
        with suppress(LaunchError):
            return len(self.ranks_per_node(world_size))
        return 1

    def hosts(self, nodes: Sequence[Node], shares: Sequence[int]) -> list[Host]:
        """How the nodes of a launch reach each other. Raises LaunchError where they do not."""
        names = tuple(node.name for node in nodes)
        if names not in self._hosts:
            self._hosts[names] = self._network(nodes)
        return [
            Host(host.address, host.interface, ranks, node.speeds.get(host.interface))
            for node, host, ranks in zip(nodes, self._hosts[names], shares, strict=True)
        ]

    def _network(self, nodes: Sequence[Node]) -> list[Host]:
        leading, *others = nodes
        # The same kernel and the same addresses: the nodes share a network, as two agents on one
        # machine do.
        if all(
            (node.boot_id, node.addresses) == (leading.boot_id, leading.addresses)
            for node in others
        ):
            return [LOOPBACK] * len(nodes)
        if self._interface is not None:
            return [_on(node, self._interface) for node in nodes]
        networks = [
            network
            for interface, address in leading.addresses.items()
            if (network := self._routes(nodes, Host(address, interface, 0)))
        ]
        if networks:
            # Of several, that of the fastest interfaces: the first one is often for administration.
            return max(networks, key=lambda network: _least_mbit_s(nodes, network))
        raise LaunchError(
            f"no network leads from {', '.join(node.name for node in others)} to {leading.name}"
            f" ({leading.addresses}): name the interface with --dnn-interface"
        )

    @staticmethod
    def _routes(nodes: Sequence[Node], first: Host) -> list[Host]:
        """The network on which the leading node is `first`, where routes lead there and back on all
        nodes; empty where they do not."""
        leading, *others = nodes
        routes = [node.route_to(first.address) for node in others]
        there = all(
            _leads(node, route, first.address) for node, route in zip(others, routes, strict=True)
        )
        if not there or {leading.route_to(source)[0] for _, source in routes} != {first.interface}:
            return []
        return [first, *(Host(source, name, 0) for name, source in routes)]

    def close(self) -> None:
        """Ends what runs on the nodes, on all of them at once."""
        with ExitStack() as ends:
            for node in self.nodes:
                ends.callback(node.close)
            for node in self.nodes:
                if isinstance(node, RemoteNode):
                    node.begin_close()


def _leads(node: Node, route: tuple[str, str], address: str) -> bool:
    """Whether a route of a node leads to an address of another: not to one of its own."""
    interface, source = route
    return bool(interface) and address not in node.addresses.values() and source != ""


def _least_mbit_s(nodes: Sequence[Node], network: Sequence[Host]) -> int:
    """The nominal speed of its slowest interface; 0 where the kernel gives none."""
    hosts = zip(nodes, network, strict=True)
    return min(node.speeds.get(host.interface, 0) for node, host in hosts)


def _on(node: Node, interface: str) -> Host:
    if interface not in node.addresses:
        raise UsageError(
            f"--dnn-interface {interface}: node {node.name} has no IPv4 address on it; it has"
            f" {', '.join(node.addresses)}"
        )
    return Host(node.addresses[interface], interface, 0)


def _divided(world_size: int, capacities: Sequence[int]) -> list[int]:
    """The ranks of each node, as even as their capacities allow; empty where they do not fit, or
    where a node would have none."""
    if world_size > sum(capacities) or world_size < len(capacities):
        return []
    shares = [0] * len(capacities)
    for _ in range(world_size):
        free = [number for number, share in enumerate(shares) if share < capacities[number]]
        shares[min(free, key=lambda number: (shares[number], number))] += 1
    return shares if all(shares) else []


def _joined(facts: Iterable[str | None]) -> str | None:
    """One fact of several nodes: the values that differ, in order."""
    values = [fact for fact in dict.fromkeys(facts) if fact is not None]
    return ", ".join(values) or None


def is_this_machine(node: str) -> bool:
    """Whether a node of a batch system is the machine that pytest runs on."""
    own = platform.node()
    return node in (os.environ.get("SLURMD_NODENAME"), own, own.partition(".")[0])
