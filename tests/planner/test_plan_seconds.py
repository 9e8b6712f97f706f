"""What a minibatch takes under a plan, worked out by hand."""

import math

import pytest

from pytest_dnnbench.planner.plan import Plan, PlannedStage
from pytest_dnnbench.planner.plan_seconds import averages_s, minibatch_s, updates_s

BANDWIDTH = 100.0


def stage(
    number: int, replicas: int, compute_s: float, weights: float, output: float
) -> PlannedStage:
    return PlannedStage(
        number, number, replicas, compute_s, weights, output, 0.0, 1, (f"node{number}",)
    )


def plan(bottleneck_s: float, *stages: PlannedStage) -> Plan:
    return Plan("corrected", (3,), bottleneck_s, 1.0, 1.0, 2.0, stages)


TWO = plan(3.0, stage(0, 2, 6.0, 300.0, 50.0), stage(1, 1, 2.0, 100.0, 8.0))
"""Stage 0 on two ranks, stage 1 on one."""


def test_an_update_is_shared_out_by_weights() -> None:
    assert updates_s(TWO, 4.0) == [3.0, 1.0]
    assert updates_s(plan(1.0, stage(0, 1, 1.0, 0.0, 0.0)), 4.0) == [0.0], "nothing to update"


def test_replicas_average_in_a_ring() -> None:
    # Two ranks pass two halves of 300 bytes in one direction, twice: 300 / 100 s.
    assert averages_s(TWO, BANDWIDTH) == pytest.approx([3.0, 0.0])


def test_cores_do_everything_one_after_the_other() -> None:
    # Stage 0: 6 compute, 3 update, 3 average, 2 * 50 / 100 messages; two replicas take turns.
    # Stage 1: 2 compute, 1 update, 1 messages; its own output stays.
    assert minibatch_s(TWO, 4.0, BANDWIDTH, overlaps=False) == pytest.approx((6 + 3 + 3 + 1) / 2)
    slow = plan(3.0, TWO.stages[0], stage(1, 1, 9.0, 100.0, 8.0))
    assert minibatch_s(slow, 4.0, BANDWIDTH, overlaps=False) == pytest.approx(9 + 1 + 1)


def test_links_are_hidden_up_to_the_plans_bottleneck() -> None:
    assert minibatch_s(TWO, 4.0, BANDWIDTH, overlaps=True) == pytest.approx((6 + 3) / 2)
    assert minibatch_s(plan(7.0, *TWO.stages), 4.0, BANDWIDTH, overlaps=True) == 7.0


def test_without_update_and_with_free_links_a_plan_takes_its_slowest_stage() -> None:
    for overlaps in (True, False):
        assert minibatch_s(TWO, 0.0, math.inf, overlaps=overlaps) == 3.0
