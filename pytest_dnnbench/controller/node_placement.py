"""Placements of launches on nodes: which nodes, how many ranks on each, and the devices that each
node leases for them. The leases of a launch are taken node by node in one order, so that two
sessions cannot wait for each other.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import accumulate
from statistics import median

import msgspec

from pytest_dnnbench.controller.cluster import Cluster, HereNode, Node
from pytest_dnnbench.controller.gpu_samples import GpuSamples
from pytest_dnnbench.controller.placement import NodeShare, Placement, PlacementSource
from pytest_dnnbench.controller.rank_clock import ClockOffset
from pytest_dnnbench.controller.remote_node import RemoteNode
from pytest_dnnbench.controller.route import Host
from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import LaunchError
from pytest_dnnbench.results.records.schema import Conditions, GpuWindow, NodeConditions

_MARGIN, _SAVING_S = 1.5, 10.0
"""How much longer than the longest one a launch may take, and how long saving takes."""

_SLACK_S = 30.0
"""How much longer than its own wait for devices an agent may take to say that it gave up."""


class TimeLimit:
    """The end of a batch job, before which the session stops by itself: no launch begins that would
    probably not end.

    `left_s` is the time that is left now, `stop` ends the session with a reason. `clock` gives
    seconds.
    """

    def __init__(
        self,
        left_s: float,
        stop: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._ends_s = clock() + left_s
        self._stop = stop
        self._longest_s = 0.0

    @contextmanager
    def launch(self) -> Iterator[None]:
        """One launch, which takes about as long as the longest before it."""
        begun_s = self._clock()
        left_s, needed_s = self._ends_s - begun_s, _MARGIN * self._longest_s + _SAVING_S
        if left_s < needed_s:
            self._stop(
                f"the job ends in {max(0.0, left_s):.0f} s, and a launch takes up to"
                f" {self._longest_s:.0f} s"
            )
        try:
            yield
        finally:
            self._longest_s = max(self._longest_s, self._clock() - begun_s)


class NodePlacements:
    """Gives each launch of a session its placement on the session's nodes."""

    side_by_side = False

    def __init__(
        self, cluster: Cluster, lease_timeout_s: float, limit: TimeLimit | None = None
    ) -> None:
        self.cluster = cluster
        self._limit = limit
        self._lease_s = lease_timeout_s + _SLACK_S

    def __call__(self, world_size: int) -> AbstractContextManager[Placement]:
        """The placement of a launch; waits until its devices are free. Raises LaunchError when the
        wait takes too long, or when nodes are lost and too few are left."""
        return self._on(lambda nodes: self.cluster.ranks_per_node(world_size, nodes))

    def one_per_node(self, nodes: int) -> PlacementSource:
        """Placements of one rank on each of so many nodes."""

        def source(world_size: int) -> AbstractContextManager[Placement]:
            return self._on(lambda there: [1] * min(nodes, len(there)))

        return source

    def threads(self, world_size: int) -> int:
        """Compute threads of one rank, before the nodes of a launch are chosen."""
        per_node = max(self.cluster.ranks_per_node(world_size))
        return min(node.machine.threads(per_node) for node in self.cluster.nodes)

    @contextmanager
    def _on(self, divide: Callable[[Sequence[Node]], list[int]]) -> Iterator[Placement]:
        nodes, shares = self._nodes(divide)
        hosts = self.cluster.hosts(nodes, shares)
        placed: dict[str, Placement] = {}
        placement: Placement | None = None
        try:
            with ExitStack() as leases:
                if self._limit is not None:
                    leases.enter_context(self._limit.launch())
                machines: set[str] = set()
                for node, ranks in sorted(
                    zip(nodes, shares, strict=True), key=lambda pair: pair[0].name
                ):
                    placed[node.name] = leases.enter_context(
                        node.lease(ranks, self._lease_s, leased=node.boot_id in machines)
                    )
                    machines.add(node.boot_id)
                parts = [placed[node.name] for node in nodes]
                placement = _together(nodes, parts)
                placement.shares = tuple(map(NodeShare, nodes, hosts))
                yield placement
        finally:
            if placement is not None:
                placement.conditions = _conditions(nodes, hosts, placed)
                samples = [placed[node.name].gpu_samples or (GpuSamples(()),) for node in nodes]
                placement.gpu_samples = tuple(each for (each,) in samples)

    def _nodes(self, divide: Callable[[Sequence[Node]], list[int]]) -> tuple[list[Node], list[int]]:
        """The nodes of a launch, which answer, and the ranks on each. Where one is lost another
        takes its place, if there is one."""
        needed = len(divide(self.cluster.nodes))
        while True:
            left = [node for node in self.cluster.nodes if node.name not in self.cluster.lost]
            try:
                shares = divide(left) if left else []
            except LaunchError:
                shares = []
            if len(shares) != needed:
                lost = "; ".join(self.cluster.lost.values())
                raise LaunchError(
                    f"the launch needs {counted(needed, 'node')} and {len(left)} of"
                    f" {len(self.cluster.nodes)} are left: {lost}"
                )
            chosen = left[: len(shares)]
            for node in left:  # also those that may have to take another's place
                if isinstance(node, RemoteNode):
                    node.refresh()
            for node in chosen:
                try:
                    node.connect()
                except LaunchError as error:
                    self.cluster.lost[node.name] = str(error)
                    break
            else:
                return chosen, shares


def _together(nodes: Sequence[Node], parts: Sequence[Placement]) -> Placement:
    """The placements of several nodes as one, in the order of the ranks."""
    cores = [part.cores_of(rank) for part in parts for rank in range(len(part.devices))]
    variables = [part.variables_of(rank) for part in parts for rank in range(len(part.devices))]
    uuids = [uuid for part in parts for uuid in part.gpu_uuids]
    here = [part for node, part in zip(nodes, parts, strict=True) if isinstance(node, HereNode)]
    placement = Placement(
        tuple(device for part in parts for device in part.devices),
        min(part.threads for part in parts),
        gpu_uuids=tuple(uuids),
        rank_cores=tuple(cores) if any(cores) else (),
        rank_variables=tuple(variables) if any(variables) else (),
    )
    if here:
        placement.watch = here[0].watch
    return placement


def _conditions(
    nodes: Sequence[Node], hosts: Sequence[Host], placed: dict[str, Placement]
) -> Conditions:
    """What was observed on the nodes of a launch; each node's reason for a disturbance names it."""
    by_node = [
        (node.name, host, placed[node.name].conditions)
        for node, host in zip(nodes, hosts, strict=True)
    ]
    reasons = [f"node {name}: {each.disturbed}" for name, _, each in by_node if each.disturbed]
    loads = [each.others_cores for _, _, each in by_node]
    return Conditions(
        disturbed="; ".join(reasons) or None,
        others_cores=None if None in loads else round(sum(load or 0.0 for load in loads), 3),
        gpu_uuids=tuple(uuid for _, _, each in by_node for uuid in each.gpu_uuids),
        rank_cores=tuple(cores for _, _, each in by_node for cores in each.rank_cores),
        gpu_before={uuid: gpu for _, _, each in by_node for uuid, gpu in each.gpu_before.items()},
        gpu_after={uuid: gpu for _, _, each in by_node for uuid, gpu in each.gpu_after.items()},
        nodes=[
            NodeConditions(
                name=name,
                ranks=host.ranks,
                cores=each.cores,
                others_cores=each.others_cores,
                interface=host.interface if len(nodes) > 1 else "",
                network_mbit_s=host.mbit_s if len(nodes) > 1 else None,
            )
            for name, host, each in by_node
        ],
    )


def gpu_windows(
    placement: Placement, window: tuple[float, float], offsets: Sequence[ClockOffset]
) -> dict[str, GpuWindow]:
    """What was read of each GPU of a launch during a stretch of time by the controller's clock.
    `offsets` are those of each rank's node; empty: all ranks have the controller's clock."""
    start_s, end_s = window
    firsts = list(accumulate((share.host.ranks for share in placement.shares), initial=0))
    windows: dict[str, GpuWindow] = {}
    for first, samples in zip(firsts, placement.gpu_samples, strict=False):
        offset_s = offsets[first].offset_s if offsets else 0.0
        windows |= samples.window(start_s + offset_s, end_s + offset_s)
    return windows


def with_clocks(conditions: Conditions, clocks: Sequence[tuple[float, float]]) -> Conditions:
    """The conditions of a launch with each node's clock: its offset from the controller's and how
    far that may be off, seconds, for each rank."""
    if not clocks or not conditions.nodes:
        return conditions
    nodes, first = [], 0
    for node in conditions.nodes:
        offset_s, uncertainty_s = clocks[first]
        first += node.ranks
        nodes.append(
            msgspec.structs.replace(
                node, clock_offset_s=offset_s, clock_uncertainty_s=uncertainty_s
            )
        )
    return msgspec.structs.replace(conditions, nodes=nodes)


def with_skews(conditions: Conditions, own_work_s: Sequence[Sequence[float]]) -> Conditions:
    """The conditions of a launch on several nodes with each node's skew. `own_work_s` are, for each
    rank, three quartiles of the seconds of a step for which it needs no other; empty: not known."""
    if len(conditions.nodes) < 2 or not own_work_s:
        return conditions
    of_ranks = [middle for _, middle, _ in own_work_s]
    nodes, first = [], 0
    for node in conditions.nodes:
        there = median(of_ranks[first : first + node.ranks])
        first += node.ranks
        nodes.append(msgspec.structs.replace(node, skew=there / median(of_ranks) - 1))
    return msgspec.structs.replace(conditions, nodes=nodes)
