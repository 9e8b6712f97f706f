"""The preflight of a session over several nodes: one launch with a rank on each of them, which
measures yardsticks and links (rank/preflight.py), made into its entry of the record."""

import importlib.metadata
import time
from collections.abc import Sequence
from statistics import median

from pytest_dnnbench.controller.node_placement import NodePlacements
from pytest_dnnbench.controller.placement import NodeShare
from pytest_dnnbench.controller.rank_clock import ClockOffset
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import LinkSpeed, NodeSpeed
from pytest_dnnbench.results.records.preflight import (
    LinkPreflight,
    NodePreflight,
    PreflightEntry,
)

MEASURE = "pytest_dnnbench.rank.preflight:measure"

LINKS_S, TIMEOUT_S = 35.0, 60.0
"""How long links are measured, and how long the preflight may take."""


def preflight(placements: NodePlacements, ready_s: float) -> PreflightEntry:
    """Measures all nodes of the session. `ready_s` is how long their fork servers may take with
    their imports before. Raises RankFailure, which names a node, LaunchError or UsageError."""
    nodes = placements.cluster.nodes
    for node in nodes:
        node.start()
    for node in nodes:
        node.wait_ready(ready_s)
    begun_s = time.monotonic()
    ranks = Ranks(
        None,
        ["cpu"] * len(nodes),
        threads=1,
        timeout_s=TIMEOUT_S,
        placements=placements.one_per_node(len(nodes)),
    )
    speeds: list[NodeSpeed] = ranks.launch(MEASURE, LINKS_S, returns=NodeSpeed)
    took_s = time.monotonic() - begun_s
    kind = placements.cluster.machine.kind
    return entry_of(speeds, ranks.placement.shares, ranks.clock.offsets, kind, took_s)


def entry_of(
    speeds: Sequence[NodeSpeed],
    shares: Sequence[NodeShare],
    offsets: Sequence[ClockOffset],
    device: str,
    took_s: float,
) -> PreflightEntry:
    """The entry; one speed, share and offset for each node, in the same order. `device` is the kind
    of the ranks' devices."""
    typical_s = [median(speed.yardstick_s) for speed in speeds]
    names = [share.node.name for share in shares]
    links = [_link_entry(link, names) for speed in speeds for link in speed.links]
    pairs = len(names) * (len(names) - 1) // 2
    return PreflightEntry(
        device=device,
        torch=importlib.metadata.version("torch"),
        took_s=took_s,
        nodes=[
            NodePreflight(
                name=share.node.name,
                yardstick_s=list(speed.yardstick_s),
                skew=middle_s / median(typical_s) - 1,
                clock_offset_s=offset.offset_s,
                clock_uncertainty_s=offset.uncertainty_s,
                interface=share.host.interface,
                network_mbit_s=share.host.mbit_s,
            )
            for share, speed, middle_s, offset in zip(
                shares, speeds, typical_s, offsets, strict=True
            )
        ],
        links=links,
        links_left_out=pairs - len({link.nodes for link in links}),
    )


def _link_entry(link: LinkSpeed, names: Sequence[str]) -> LinkPreflight:
    """Of the link between two nodes; `names` are those of all nodes, by rank."""
    return LinkPreflight(
        nodes=(names[link.ranks[0]], names[link.ranks[1]]),
        backend=link.backend,
        size_bytes=link.size_bytes,
        bytes_s=(link.forth_bytes_s, link.back_bytes_s),
        latency_s=link.latency_s,
    )
