"""Links, what shares them, and rings: worked examples, and the ring beside its rounds."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.fabric import (
    FREE,
    CollectiveCost,
    Fabric,
    Link,
    Load,
    cost_through,
    hops_of,
)
from pytest_dnnbench.planner.levels import Level

TWO_NODES = Fabric((Level(4, 300e9), Level(2, 25e9)), (1e-6, 5e-6))


@given(st.integers(2, 9), st.integers(1, 50), st.sampled_from([0.5, 3.0, 64.0]), st.integers(0, 3))
def test_a_ring_takes_as_long_as_its_rounds(
    ranks: int, parts: int, bandwidth: float, latency_s: int
) -> None:
    """Played: every rank passes a part to its neighbour until all parts have come around."""
    size = ranks * parts
    holds = [{rank} for rank in range(ranks)]
    passing = list(range(ranks))
    seconds = 0.0
    while any(len(each) < ranks for each in holds):
        passing = [passing[rank - 1] for rank in range(ranks)]
        for rank in range(ranks):
            holds[rank].add(passing[rank])
        seconds += latency_s + parts / bandwidth
    link = Link(bandwidth, latency_s)
    assert link.all_gather(ranks).seconds(size) == pytest.approx(seconds, rel=1e-12)
    # Parts are added on their way around, and then the sums are passed around.
    assert link.all_reduce(ranks).seconds(size) == pytest.approx(2 * seconds, rel=1e-12)


def test_one_rank_and_no_bytes_take_no_time() -> None:
    assert Link(1.0, 1.0).all_reduce(1) == FREE
    assert Link(1.0, 1.0).all_reduce(2).seconds(0) == 0
    assert Link(1.0, 1.0).seconds(0) == 0
    assert FREE.seconds(1e9) == 0


def test_a_ring_over_nodes_is_as_fast_as_the_link_between_them() -> None:
    ring = TWO_NODES.ring(range(8))
    assert ring == Link(25e9, 5e-6), "it leaves each node once, so nothing shares that link"
    assert ring.all_reduce(8).seconds(1e9) == pytest.approx(14 * (5e-6 + 1e9 / (8 * 25e9)))
    assert TWO_NODES.ring(range(4)) == Link(300e9, 1e-6)


def load_of(rings: list[list[int]]) -> Load:
    return TWO_NODES.load(np.concatenate([hops_of(ring) for ring in rings]))


def test_rings_that_leave_a_node_together_share_its_link() -> None:
    across = [[gpu, gpu + 4] for gpu in range(4)]
    assert TWO_NODES.ring(across[0], load_of(across)) == Link(25e9 / 4, 5e-6)
    inside = [[0, 1], [2, 3]]
    assert TWO_NODES.ring(inside[0], load_of(inside)) == Link(300e9, 1e-6), "other links each"


def test_flows_between_racks_take_the_links_of_racks() -> None:
    racks = Fabric((Level(2, 300e9), Level(2, 50e9), Level(2, 25e9)))
    links = {target: racks.slowest([(0, target)], racks.load([(0, target)])) for target in range(8)}
    assert [link.bandwidth / 1e9 for link in links.values()] == [math.inf, 300, 50, 50, *[25] * 4]
    assert {link.latency_s for link in links.values()} == {0.0}, "none unless they are given"
    # Rank 3 is of the same rack as 0 and another node: both flows leave the rack.
    assert racks.slowest([(0, 4)], racks.load([(0, 4), (3, 6)])).bandwidth == 12.5e9
    assert racks.slowest([(0, 4)], racks.load([(0, 4), (0, 2)])).bandwidth == 25e9


def test_messages_share_links_by_direction() -> None:
    forward, back = [(3, 4), (2, 5)], [(4, 3)]
    load = TWO_NODES.load([*forward, *back])
    assert TWO_NODES.slowest(forward, load).bandwidth == 12.5e9
    assert TWO_NODES.slowest(back, load).bandwidth == 25e9
    assert TWO_NODES.slowest([], load) == Link(math.inf)


def test_latencies_are_one_for_each_level() -> None:
    with pytest.raises(PlanError, match="latencies of 1 levels, and workers of 2"):
        Fabric((Level(4, 1e9), Level(2, 1e9)), (1e-6,))
    for latency_s in (-1e-6, math.inf, math.nan):
        with pytest.raises(PlanError, match="at least 0 and finite"):
            Fabric((Level(4, 1e9), Level(2, 1e9)), (0.0, latency_s))


def test_a_measured_cost_goes_through_both_measurements() -> None:
    cost = cost_through((1e3, 2.0), (9e3, 6.0))
    assert cost == CollectiveCost(1.5, 2e3)
    assert cost.seconds(9e3) == 6.0
    assert cost_through((1e3, 2.0), (1e9, 1.0)) == CollectiveCost(0.0, 1e9), "noise"
    assert cost_through((1e6, 1.0), (2e6, 3.0)).fixed_s == 0.0, "never below zero"


def ends_of(flow: tuple[int, int], fabric: Fabric) -> list[tuple[int, int, str]]:
    """Level, unit and direction of the two link ends that one flow uses, by walking outwards."""
    source, target = flow
    units = 1
    for number, level in enumerate(fabric.levels):
        if source == target:
            return []
        if source // (units * level.workers) == target // (units * level.workers):
            return [(number, source // units, "out"), (number, target // units, "in")]
        units *= level.workers
    raise AssertionError(f"{flow} leaves the fabric")


@given(
    st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40),
    st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=9),
)
def test_a_share_is_that_of_each_flow_counted_one_by_one(
    others: list[tuple[int, int]], flows: list[tuple[int, int]]
) -> None:
    fabric = Fabric((Level(3, 300e9), Level(5, 50e9), Level(2, 20e9)), (1e-6, 2e-6, 3e-6))
    uses = Counter(end for flow in [*others, *flows] for end in ends_of(flow, fabric))
    ends = [end for flow in flows for end in ends_of(flow, fabric)]
    expected = Link(
        min((fabric.levels[end[0]].bandwidth / uses[end] for end in ends), default=math.inf),
        max((fabric.latencies_s[end[0]] for end in ends), default=0.0),
    )
    assert fabric.slowest(flows, fabric.load([*others, *flows])) == expected
