"""What steps take under a plan, worked out by hand."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_dnnbench.planner.layout import Layout
from pytest_dnnbench.planner.orders import flushing_orders
from pytest_dnnbench.planner.plan import Plan, PlannedStage
from pytest_dnnbench.planner.plan_seconds import (
    averages_s,
    flushed_s,
    messages_s,
    minibatch_s,
    pass_seconds,
    updates_s,
)
from pytest_dnnbench.planner.schedule import Schedule
from tests.planner.ticking import Job, ticks

BANDWIDTH = 100.0


def stage(
    number: int, replicas: int, compute_s: float, weights: float, output: float
) -> PlannedStage:
    return PlannedStage(
        number, number, replicas, compute_s, weights, output, 0.0, 1, (f"operator{number}",)
    )


def plan(bottleneck_s: float, *stages: PlannedStage, update_s: float = 4.0) -> Plan:
    return Plan("corrected", (3,), bottleneck_s, 1.0, 1.0, 2.0, stages, update_s=update_s)


TWO = plan(3.0, stage(0, 2, 6.0, 300.0, 50.0), stage(1, 1, 2.0, 100.0, 8.0))
"""Stage 0 on two ranks, stage 1 on one."""


def each_s(planned: Plan, variant: str = "pipedream", *, overlaps: bool) -> float:
    layout = Layout(planned.replicas)
    schedule = Schedule(variant, layout, 1 if variant == "pipedream" else 4)
    averages, messages = averages_s(planned, BANDWIDTH), messages_s(planned, BANDWIDTH)
    return minibatch_s(planned, schedule, averages, messages, overlaps=overlaps)


def test_an_update_is_shared_out_by_weights() -> None:
    assert updates_s(TWO) == [3.0, 1.0]
    assert updates_s(plan(1.0, stage(0, 1, 1.0, 0.0, 0.0))) == [0.0], "nothing to update"


def test_replicas_average_in_a_ring() -> None:
    # Two ranks pass two halves of 300 bytes in one direction, twice: 300 / 100 s.
    assert averages_s(TWO, BANDWIDTH) == pytest.approx([3.0, 0.0])


def test_neighbours_send_results_and_gradients() -> None:
    assert messages_s(TWO, BANDWIDTH) == {(0, 1): 0.5, (1, 0): 0.5}, "the last sends nothing on"


def test_cores_do_everything_one_after_the_other() -> None:
    # Stage 0: 6 compute, 3 update, 3 average, 2 * 50 / 100 messages; two replicas take turns.
    # Stage 1: 2 compute, 1 update, 1 messages; its own output stays.
    assert each_s(TWO, overlaps=False) == pytest.approx((6 + 3 + 3 + 1) / 2)
    slow = plan(3.0, TWO.stages[0], stage(1, 1, 9.0, 100.0, 8.0))
    assert each_s(slow, overlaps=False) == pytest.approx(9 + 1 + 1)


def test_links_are_hidden_up_to_the_plans_bottleneck() -> None:
    assert each_s(TWO, overlaps=True) == pytest.approx((6 + 3) / 2)
    assert each_s(plan(7.0, *TWO.stages), overlaps=True) == 7.0


def test_without_update_and_with_free_links_a_plan_takes_its_slowest_stage() -> None:
    free = plan(3.0, *TWO.stages, update_s=0.0)
    schedule = Schedule("pipedream", Layout((2, 1)))
    for overlaps in (True, False):
        assert minibatch_s(free, schedule, [0.0, 0.0], {}, overlaps=overlaps) == 3.0


def test_two_versions_are_updated_once_in_as_many_minibatches_as_they_average() -> None:
    """Stage 0: a replica has 6 compute and 1 messages per minibatch; in 4 minibatches 3 update and
    3 average. Stage 1: 2 and 1; 1 update."""
    assert each_s(TWO, "pipedream-2bw", overlaps=False) == pytest.approx(7 / 2 + 6 / 4)
    assert each_s(TWO, "pipedream-2bw", overlaps=True) == pytest.approx(6 / 2 + 6 / 4)
    summed = replace(TWO, add_s=4.0)  # 3 s of stage 0 for each minibatch, and before the update
    assert each_s(summed, "pipedream-2bw", overlaps=True) == pytest.approx(9 / 2 + 9 / 4)


def test_a_flush_is_played_through() -> None:
    """Two stages of 1 s forward and 2 s backward, two microbatches: 0F0 0-1, 0F1 1-2, 1F0 1-2,
    1B0 2-4, 1F1 4-5, 1B1 5-7, 0B0 4-6, 0B1 7-9; and the update of stage 0, 1 s, once."""
    even = plan(3.0, *(stage(n, 1, 3.0, 100.0, 0.0) for n in range(2)), update_s=2.0)
    schedule = Schedule("pipedream-flush", Layout((1, 1)), 2)
    assert flushed_s(even, schedule, [0.0, 0.0], {}) == pytest.approx(9 + 1)
    # Stage 1 adds 1 s to each backward pass, stage 0 as well, and 1 s before the update.
    summed = replace(even, add_s=2.0)
    assert flushed_s(summed, schedule, [0.0, 0.0], {}) == pytest.approx(9 + 3 + 1 + 1)
    # Two replicas of it all, with twice as many microbatches, take as long.
    double = replace(even, stages=tuple(replace(each, replicas=2) for each in even.stages))
    twice = Schedule("pipedream-flush", Layout((2, 2)), 4)
    assert flushed_s(double, twice, [0.0, 0.0], {}) == pytest.approx(9 + 1)


def test_the_gradients_of_a_single_pass_are_its_mean_and_are_added_to_nothing() -> None:
    """One microbatch: 0F 0-1, 1F 1-2, 1B 2-4, 0B 4-6; and the update of stage 0, 1 s."""
    even = plan(3.0, *(stage(n, 1, 3.0, 100.0, 0.0) for n in range(2)), update_s=2.0)
    summed = replace(even, add_s=2.0)  # 1 s of each stage
    alone = Schedule("pipedream-flush", Layout((1, 1)), 1)
    assert flushed_s(summed, alone, [0.0, 0.0], {}) == pytest.approx(6 + 1)
    # The mean over two replicas is added up: after each backward pass, and before the update.
    pair = replace(summed, stages=tuple(replace(each, replicas=2) for each in summed.stages))
    both = Schedule("pipedream-flush", Layout((2, 2)), 2)
    assert flushed_s(pair, both, [0.0, 0.0], {}) == pytest.approx(6 + 2 + 1 + 1)


def test_steps_of_microseconds_take_microseconds() -> None:
    small = plan(0.0, *(replace(each, compute_s=1e-6) for each in TWO.stages), update_s=0.0)
    for variant in ("pipedream", "pipedream-2bw"):
        schedule = Schedule(variant, Layout((2, 1)), 1 if variant == "pipedream" else 4)
        seconds = minibatch_s(small, schedule, [0.0, 0.0], {}, overlaps=True)
        assert seconds == pytest.approx(1e-6)


def test_a_plan_that_knows_forward_from_backward_is_played_with_both() -> None:
    """In two, the backward pass of the first stage has nothing to do for its inputs."""
    two = [replace(stage(number, 1, 5.0, 8.0, 0.0), forward_s=3.0) for number in range(2)]
    planned = replace(plan(5.0, *two), halves=(0.25, 1.0))
    kinds = {"F": 3.0, "L": 0.0, "B": 2.0, "U": 9.0}
    assert pass_seconds(planned, [7.0, 7.0], 0.0, 0.0) == {
        **{(number, kind): seconds for number in range(2) for kind, seconds in kinds.items()},
        (0, "I"): 0.0,
        (0, "W"): 2.0,
        (1, "I"): 0.5,
        (1, "W"): 2.0,
    }
    more = pass_seconds(planned, [7.0, 7.0], 0.0, 0.0, runtime_s=0.25)
    assert more[1, "F"] == 3.25, "the runtime's own time is in every pass"
    assert [more[0, kind] for kind in "BIW"] == [2.25, 0.25, 2.25]
    assert (more[0, "L"], more[0, "U"]) == (0.0, 9.0)


@given(
    st.sampled_from([(2, 1), (1, 2), (3, 1), (2, 1, 1), (1, 2, 1), (2, 3)]),
    st.integers(1, 2),
    st.data(),
)
def test_a_flush_of_uneven_replicas_takes_as_long_as_its_simulation(
    replicas: tuple[int, ...], rounds: int, data: st.DataObject
) -> None:
    length = st.integers(0, 4)
    schedule = Schedule("pipedream-flush", Layout(replicas), math.lcm(*replicas) * rounds)
    stages = []
    for number, count in enumerate(replicas):
        forward, backward = data.draw(length), data.draw(length)
        planned_stage = stage(number, count, float(forward + backward), 1.0, 0.0)
        stages.append(replace(planned_stage, forward_s=float(forward)))
    planned = plan(1.0, *stages, update_s=float(len(stages)))  # 1 s each
    averages = [float(data.draw(length)) for _ in stages]
    messages = {
        pair: data.draw(length)
        for number in range(len(stages) - 1)
        for pair in ((number, number + 1), (number + 1, number))
    }
    batches = [played(planned, schedule, averages, messages) for _ in range(4)]
    ticks([job for batch in batches for job in batch])
    ends = [[ended(batch, rank) for rank in range(sum(replicas))] for batch in batches]
    expected = max(last - before for before, last in zip(*ends[-2:], strict=True))
    assert flushed_s(planned, schedule, averages, messages) == expected


def played(
    planned: Plan, schedule: Schedule, averages: list[float], messages: dict[tuple[int, int], int]
) -> list[Job]:
    """A batch as jobs: passes on their rank, messages on the link from rank to rank, and updates
    that wait for the passes of all replicas."""
    jobs: dict[tuple[int, str, int], Job] = {}
    updates: list[tuple[int, Job]] = []
    all_jobs: list[Job] = []
    for rank, order in enumerate(flushing_orders(schedule)):
        for each in order:
            forward_s, backward_s = planned.stages[each.stage].passes_s
            seconds = {"F": forward_s, "B": backward_s, "U": 1 + averages[each.stage]}[each.kind]
            job = Job(f"rank {rank}", int(seconds))
            all_jobs.append(job)
            if each.kind == "U":
                updates.append((each.stage, job))
            else:
                jobs[each.stage, each.kind, each.microbatch] = job
    for number, job in updates:
        job.after += [other for (at, kind, _), other in jobs.items() if at == number]
    last = len(planned.stages) - 1
    sent = [key for key in jobs if key[1] == "F" and key[0] < last]
    sent += [key for key in jobs if key[1] == "B" and key[0]]
    for number, kind, microbatch in sent:
        source, target = jobs[number, kind, microbatch], number + (1 if kind == "F" else -1)
        receiver = jobs[target, kind, microbatch]
        link = f"{source.resource} to {receiver.resource}"
        message = Job(link, messages[number, target], [source])
        receiver.after.append(message)
        all_jobs.append(message)
    for number, _, microbatch in [key for key in jobs if key[1] == "B"]:
        jobs[number, "B", microbatch].after.append(jobs[number, "F", microbatch])
    return all_jobs


def ended(batch: list[Job], rank: int) -> int:
    """When a rank ended a batch."""
    return max(job.ended or 0 for job in batch if job.resource == f"rank {rank}")
