"""The types of a preflight: what a session over several nodes measured of nodes and links before
its first case. How it is measured: controller/preflight.py; what is slow:
results/verdicts/preflight.py."""

from collections.abc import Collection
from statistics import median

import msgspec

from pytest_dnnbench.metrics import LARGEST, can_be_measured

NETWORK = "network_bytes_s"
"""The recorded fact of a case: what the slowest link between its nodes carried."""


class NodePreflight(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One node: the seconds of its yardstick, each time: of its cores or, where ranks run on GPUs,
    of one of them.

    `skew` is its median over that of all nodes, minus 1: above zero for a slower node.
    `clock_offset_s` is the node's monotonic clock minus the controller's, `clock_uncertainty_s` how
    far that may be off. `interface` leads to the other nodes, and `network_mbit_s` is its nominal
    speed, null where the kernel gives none. `slow` says how much slower the node or its network is
    than the others, or than before; empty where it is not.
    """

    name: str
    yardstick_s: list[float]
    skew: float
    clock_offset_s: float = 0.0
    clock_uncertainty_s: float = 0.0
    interface: str = ""
    network_mbit_s: int | None = None
    slow: str = ""

    @property
    def typical_s(self) -> float:
        """The median of its yardsticks."""
        return median(self.yardstick_s)


class LinkPreflight(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The link between two nodes over one backend (gloo; NCCL too where ranks run on GPUs).

    `bytes_s` are the medians of a few transfers of `size_bytes`, from the first node to the second
    and back, while other pairs of nodes did the same; `latency_s` is half of the median round trip
    of eight bytes. `slow` is as that of a node.
    """

    nodes: tuple[str, str]
    backend: str
    size_bytes: int
    bytes_s: tuple[float, float]
    latency_s: float
    slow: str = ""

    @property
    def slower_bytes_s(self) -> float:
        """Of its slower direction."""
        return min(self.bytes_s)


class PreflightEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What was measured of a session's nodes before its first case, in `took_s` seconds.

    Yardsticks compare where `torch` and `device`, cpu or cuda, are the same. `links_left_out`
    counts pairs of nodes for which there was no time. `slow` names nodes and links that were slower
    than the others, or than in earlier sessions, a line each.
    """

    torch: str
    device: str
    took_s: float
    nodes: list[NodePreflight]
    links: list[LinkPreflight]
    links_left_out: int = 0
    slow: list[str] = []

    @property
    def is_possible(self) -> bool:
        """Whether every figure can have been measured."""
        figures = [second for node in self.nodes for second in node.yardstick_s]
        figures += [figure for link in self.links for figure in (*link.bytes_s, link.latency_s)]
        signed = [self.took_s]
        for node in self.nodes:
            signed += [node.skew, node.clock_offset_s, node.clock_uncertainty_s]
            signed += [node.network_mbit_s or 0]
        return (
            all(node.yardstick_s for node in self.nodes)
            and all(figure > 0 and can_be_measured(figure) for figure in figures)
            and all(abs(figure) <= LARGEST for figure in signed)
        )

    def facts(self, nodes: Collection[str]) -> dict[str, float]:
        """The recorded facts of a case on these nodes: bytes per second of the slowest link between
        them, over the backend that its ranks use; empty without one."""
        between = [link for link in self.links if set(link.nodes) <= set(nodes)]
        of_ranks = [link for link in between if link.backend != "gloo"] or between
        return {NETWORK: min(link.slower_bytes_s for link in of_ranks)} if of_ranks else {}
