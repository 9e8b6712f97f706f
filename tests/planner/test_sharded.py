"""The step of sharded data parallelism: worked examples, and every model beside a simulation of the
calls that torch makes."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_dnnbench.planner.fabric import CollectiveCost
from pytest_dnnbench.planner.profile import Operator, Profile
from pytest_dnnbench.planner.sharded import ROOT, Reshard, Segment, Units, sharded_step, units_of
from tests.planner.ticking import Job, ticks

A_BYTE_A_SECOND = CollectiveCost(0.0, 1.0)


def test_gathering_the_next_block_hides_behind_this_one() -> None:
    """compute a 2-7, b 7-12; then b 12-15, a 15-18. link: a 0-2, b 2-4, b again from 7 on 7-9, a
    again 12-14, b's gradients 15-17, a's 18-20."""
    units = Units((Segment("a", 5, 3), Segment("b", 5, 3)), {"a": 2, "b": 2})
    step = sharded_step(units, A_BYTE_A_SECOND, A_BYTE_A_SECOND)
    assert (step.compute_s, step.exposed_s) == (16, 4)


def test_weights_that_stay_whole_are_not_gathered_again() -> None:
    units = Units((Segment("a", 1, 1), Segment("b", 1, 1)), {"a": 4, "b": 4})
    # a 0-4, 4-5; b 4-8, 8-9; b back 9-10, a back 10-11; b's gradients 10-14, a's 15-19? No: the
    # buffer for them is free at 14, when a's pass may end.
    step = sharded_step(units, A_BYTE_A_SECOND, A_BYTE_A_SECOND, reshard="no")
    assert step.step_s == 18


def test_the_root_is_gathered_first_and_stays() -> None:
    units = Units((Segment(ROOT, 1, 1), Segment("a", 1, 1)), {ROOT: 3, "a": 2})
    # root 0-3, 3-4; a 3-5, 5-6, back: gathered again 5-7, 7-8; the root back 8-9; gradients 8-10,
    # 10-13
    assert sharded_step(units, A_BYTE_A_SECOND, A_BYTE_A_SECOND).step_s == 13


def test_a_step_without_weights_is_its_compute() -> None:
    step = sharded_step(Units((Segment(ROOT, 2, 3),), {}), A_BYTE_A_SECOND, A_BYTE_A_SECOND)
    assert (step.step_s, step.exposed_s) == (5, 0)


def test_units_follow_the_blocks_that_the_profile_names() -> None:
    operators = tuple(
        Operator(name, "Linear", 1, 2, 0, size)
        for name, size in [("embed", 7), ("q", 1), ("relu", 0), ("v", 2), ("head", 5), ("act", 0)]
    )
    edges = tuple((a.id, b.id) for a, b in pairwise(operators))
    named = Profile(operators, edges, {"blocks": {"q": "blocks.0", "v": "blocks.1"}})
    assert units_of(named) == Units(
        (
            Segment(ROOT, 1, 2),
            Segment("blocks.0", 2, 4),
            Segment("blocks.1", 1, 2),
            Segment(ROOT, 2, 4),
        ),
        {ROOT: 12, "blocks.0": 1, "blocks.1": 2},
    )
    each = units_of(Profile(operators, edges))
    assert each.blocks == ["embed", "q", "v", "head"]
    assert (each.root_bytes, each.largest_bytes) == (0, 7)


def simulated(units: Units, reshard: Reshard) -> int:
    """The calls that torch's hooks make, in its order, on one stream for compute and one link.
    `whole` holds the copy of the gathered weights, which the compute stream makes before a unit."""
    jobs: list[Job] = []
    copies: list[Job] = []

    def call(resource: str, length: float, *after: Job) -> Job:
        jobs.append(Job(resource, int(length), list(after)))
        return jobs[-1]

    def gather(unit: str, *after: Job) -> Job | None:
        size = units.parameter_bytes.get(unit, 0)
        return call("link", size, *after) if size else None

    def whole(gathered: Job | None) -> Job:
        copies.append(call("compute", 0, *([gathered] if gathered else [])))
        return copies[-1]

    counted_units: set[str] = set()
    for segment in (Segment(ROOT, 0, 0), *units.segments):
        if segment.unit not in counted_units:
            counted_units.add(segment.unit)
            whole(gather(segment.unit, *copies[-2:-1]))
        call("compute", segment.forward_s)
    back = units.segments[::-1]
    order = list(dict.fromkeys(each.unit for each in back if each.unit != ROOT))
    freed = {"auto": set(order), "yes": {*order, ROOT}, "no": set()}[reshard]
    if ROOT in freed:
        root = gather(ROOT, copies[-1])
        last = copies[-1]
        call("compute", 0, *([root] if root else []))
    else:
        last = copies[-1]
    coming = gather(order[0], last) if order and order[0] in freed else None
    reduced: Job | None = None
    for place, segment in enumerate(back):
        unit = segment.unit
        if unit != ROOT and unit not in {each.unit for each in back[:place]}:
            begun = whole(coming)
            following = order[order.index(unit) + 1 :][:1]
            coming = gather(following[0], begun) if following and unit in freed else None
        passed = call("compute", segment.backward_s)
        if unit != ROOT and unit not in {each.unit for each in back[place + 1 :]}:
            ended = call("compute", 0, passed, *([reduced] if reduced else []))
            reduced = call("link", units.parameter_bytes.get(unit, 0), ended)
    call("link", units.parameter_bytes.get(ROOT, 0), call("compute", 0))
    return ticks(jobs)


@st.composite
def models(draw: st.DrawFn) -> Units:
    """Up to four blocks in one piece each, with the root's operators anywhere around them."""
    length = st.integers(0, 5)
    segments = []
    sizes: dict[str, float] = {ROOT: draw(length)}
    for place in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            segments.append(Segment(ROOT, draw(length), draw(length)))
        segments.append(Segment(f"block{place}", draw(length), draw(length)))
        sizes[f"block{place}"] = draw(st.integers(1, 5))
    segments.append(Segment(ROOT, draw(length), draw(length)))
    return Units(tuple(segments), sizes)


@pytest.mark.parametrize("reshard", ["auto", "yes", "no"])
@given(units=models())
def test_every_step_takes_as_long_as_its_simulation(reshard: Reshard, units: Units) -> None:
    step = sharded_step(units, A_BYTE_A_SECOND, A_BYTE_A_SECOND, reshard=reshard)
    assert step.step_s == simulated(units, reshard)
