"""The minibatches of a pipeline's proof in float64: what they cross, played through with the
schedule's own actions."""

import pytest

from pytest_dnnbench.planner.layout import Layout
from pytest_dnnbench.planner.schedule import Backward, Forward, Schedule, Update
from pytest_dnnbench.rank.proof.proven_pipeline import proof_runs

SCHEDULES = [
    Schedule("pipedream", Layout(replicas), vertical_sync=sync)
    for replicas in ((1,), (2,), (1, 1), (1, 1, 1, 1), (2, 1), (1, 3), (3, 2), (2, 1, 1))
    for sync in (False, True)
]
SCHEDULES += [
    Schedule(variant, Layout(replicas), microbatches)
    for variant in ("pipedream-2bw", "pipedream-flush")
    for replicas, microbatches in (((1, 1), 2), ((2,), 2), ((2, 1, 1), 4), ((1, 1), 5))
]
NAMES = [f"{each.variant} {each.layout}{' sync' * each.vertical_sync}" for each in SCHEDULES]
ALL = pytest.mark.parametrize("schedule", SCHEDULES, ids=NAMES)


def last_forwards_in_flight(schedule: Schedule, rank: int, minibatches: int) -> set[int]:
    """The versions that are met by the minibatches in flight on a rank at its last forward pass."""
    flying: dict[int, int] = {}
    at_last: set[int] = set()
    for action in schedule.actions(rank, minibatches):
        if isinstance(action, Forward):
            flying[action.minibatch] = action.version
            at_last = set(flying.values())
        elif isinstance(action, Backward):
            del flying[action.minibatch]
    return at_last


@ALL
def test_the_first_run_reaches_a_steady_state(schedule: Schedule) -> None:
    first, _ = proof_runs(schedule)
    ranks = range(schedule.layout.world_size)
    stages = range(len(schedule.layout.replicas))
    assert all(schedule.version(stage, first - 1) >= 1 for stage in stages)
    if schedule.variant == "pipedream":
        # One replica of each stage at least has no minibatch in flight that meets the start.
        for stage in stages:
            own = [rank for rank in ranks if schedule.layout.place(rank)[0] == stage]
            assert any(0 not in last_forwards_in_flight(schedule, rank, first) for rank in own)


@ALL
def test_the_first_run_has_momentum_and_ends_in_an_incomplete_update(schedule: Schedule) -> None:
    first, _ = proof_runs(schedule)
    for rank in range(schedule.layout.world_size):
        stage, _ = schedule.layout.place(rank)
        updates = [each for each in schedule.actions(rank, first) if isinstance(each, Update)]
        assert len(updates) >= 2
        size = schedule.update_size(stage)
        assert size == 1 or updates[-1].minibatches < size
        assert updates[0].minibatches == size


@ALL
def test_the_second_run_fills_the_pipeline_again_for_a_whole_update(schedule: Schedule) -> None:
    _, second = proof_runs(schedule)
    assert second >= 2
    for rank in range(schedule.layout.world_size):
        stage, _ = schedule.layout.place(rank)
        updates = [each for each in schedule.actions(rank, second) if isinstance(each, Update)]
        assert any(each.minibatches == schedule.update_size(stage) for each in updates)
