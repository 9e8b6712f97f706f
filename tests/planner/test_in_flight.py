"""Warm-up counts: PipeDream's where they suffice, more where replicas that wait for each other
would deadlock.

That no shape deadlocks on them is shown where the schedule is played through (test_schedule.py).
"""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.in_flight import warmup_counts

shapes = st.lists(st.integers(1, 6), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("replicas", "counts"),
    [
        ((1,), (0,)),
        ((4,), (0,)),
        ((1, 1, 1, 1), (3, 2, 1, 0)),
        ((2, 1), (1, 0)),
        ((1, 3, 1), (6, 1, 0)),
    ],
)
def test_counts_of_known_shapes(replicas: tuple[int, ...], counts: tuple[int, ...]) -> None:
    assert warmup_counts(replicas) == counts


@given(shapes)
def test_a_replica_forwards_at_least_as_many_as_keep_the_pipeline_full(replicas: list[int]) -> None:
    for stage, count in enumerate(warmup_counts(replicas)):
        assert count >= math.ceil(sum(replicas[stage:]) / replicas[stage]) - 1


@given(shapes)
def test_a_stage_feeds_every_replica_of_the_next_through_its_warm_up_and_one_more(
    replicas: list[int],
) -> None:
    counts = warmup_counts(replicas)
    for replicas_here, following, count, next_count in zip(
        replicas, replicas[1:], counts, counts[1:], strict=False
    ):
        assert replicas_here * count >= following * (next_count + 1)


@given(shapes)
def test_no_smaller_count_would_do_both(replicas: list[int]) -> None:
    counts = warmup_counts(replicas)
    for stage, (replicas_here, count) in enumerate(zip(replicas, counts, strict=True)):
        keeps_full = count - 1 >= math.ceil(sum(replicas[stage:]) / replicas_here) - 1
        last = stage == len(replicas) - 1
        feeds = last or replicas_here * (count - 1) >= replicas[stage + 1] * (counts[stage + 1] + 1)
        assert not (keeps_full and feeds)


@pytest.mark.parametrize("replicas", [(), (1, 0), (-1,)])
def test_a_stage_without_replicas_is_refused(replicas: tuple[int, ...]) -> None:
    with pytest.raises(PlanError, match="give every stage at least one"):
        warmup_counts(replicas)
