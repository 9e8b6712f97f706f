"""From a profile to a Plan: the two questions that the rest of the package asks.

    plan_for      which stages are best for these workers?
    even_plan     which cuts are best for this shape, for instance 2-1?

Not here: the searches (hierarchy.py, forced.py) and what stages cost (corrected.py).
"""

import math
from collections.abc import Sequence

import numpy as np

from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner import corrected
from pytest_dnnbench.planner.forced import best_cuts, most_stages
from pytest_dnnbench.planner.hierarchy import PlanLimits, best_arrangement, leanest_bytes
from pytest_dnnbench.planner.in_flight import warmup_counts
from pytest_dnnbench.planner.levels import Level, levels_of
from pytest_dnnbench.planner.memory import memory_of, stage_memory
from pytest_dnnbench.planner.nested_stages import NestedStage, flat_stages
from pytest_dnnbench.planner.plan import Plan, PlannedStage
from pytest_dnnbench.planner.profile import Profile, halves_in, number_in
from pytest_dnnbench.planner.remarks import remarks_on
from pytest_dnnbench.planner.states import Floats, States, states_of

CORRECTED = "corrected"
"""The name of the cost model of these plans."""


def plan_for(
    profile: Profile,
    workers: Sequence[int],
    bandwidths: Sequence[float],
    *,
    memory_bytes: float | None = None,
    replication: bool = True,
    activation_compression: float | None = 1.0,
) -> Plan:
    """The plan with the least bottleneck for a hierarchy of workers.

    `workers` and `bandwidths` (bytes per second) have one entry per level, innermost first: (4, 2)
    is four GPUs in each of two nodes. `memory_bytes` limits the memory of each worker; without
    `replication` every stage has one replica; `activation_compression` divides the bytes that cross
    a cut, None makes crossing free. Where no plan fits the memory, the plan has no stages and says
    why. Raises PlanError for workers, bandwidths or a memory that cannot be.
    """
    levels = levels_of(workers, bandwidths)
    check_limits(memory_bytes, activation_compression)
    states = states_of(profile)
    limits = PlanLimits(memory_bytes, replication, activation_compression)
    best = best_arrangement(states, levels, limits)
    if best is None:
        least = leanest_bytes(states, levels, limits)
        reason = _too_little(memory_bytes, least, workers_of(levels))
        return plan_of(profile, states, levels, (), None, reason=reason)
    bottleneck_s = corrected.stages_s(states, best.stages, best.levels, activation_compression)
    return plan_of(profile, states, levels, flat_stages(best.stages), bottleneck_s)


def even_plan(
    profile: Profile,
    replicas: Sequence[int],
    *,
    workers: int | None = None,
    bandwidth: float | None = None,
    memory_bytes: float | None = None,
    activation_compression: float | None = 1.0,
) -> Plan:
    """The plan with the least bottleneck among those of one shape: one stage for each number of
    replicas.

    `workers` is given where a worker runs several of the stages. Without a bandwidth, transfers and
    all-reduces are free, and stages are as even in compute as can be. Raises PlanError for a shape
    that cannot be, or one with more stages than the model has places to cut it into.
    """
    counts = warmup_counts(replicas)
    check_limits(memory_bytes, activation_compression)
    states = states_of(profile)
    _check_stages(profile, states, len(replicas))
    level = Level(workers or sum(replicas), math.inf if bandwidth is None else bandwidth)
    costs = corrected.LevelCosts(states, corrected.gpu(states), level, activation_compression, True)
    needed = [_needed_bytes(states, count + 1) for count in counts]
    seconds = [costs.seconds(count) for count in replicas]
    if memory_bytes is not None:
        seconds = [
            np.where(n > memory_bytes, np.inf, s) for n, s in zip(needed, seconds, strict=True)
        ]
    cuts = best_cuts(seconds, replicas)
    if cuts is None:
        leanest = best_cuts([np.where(states.inside, n, np.inf) for n in needed], replicas) or ()
        least = max(memory_of(states, [NestedStage(*stage) for stage in leanest]))
        reason = _too_little(memory_bytes, least, level.workers)
        return plan_of(profile, states, (level,), (), None, reason=reason)
    stages = tuple(NestedStage(*stage) for stage in cuts)
    bottleneck_s = corrected.stages_s(states, stages, (level,), activation_compression)
    return plan_of(profile, states, (level,), stages, bottleneck_s)


def _check_stages(profile: Profile, states: States, stages: int) -> None:
    most = most_stages(states.inside)
    if stages <= most:
        return
    shared = (
        f" (operators such as {' and '.join(profile.together[0][:2])} share a weight or a value"
        " and stay together)"
        if profile.together
        else ""
    )
    raise PlanError(
        f"{counted(stages, 'stage')}, but the model can be cut into {most} at most{shared}: ask for"
        " fewer"
    )


def check_limits(memory_bytes: float | None, activation_compression: float | None) -> None:
    """Raises PlanError unless both are positive numbers or None."""
    if memory_bytes is not None and not 0 < memory_bytes < math.inf:
        raise PlanError(
            f"memory {memory_bytes}: give the bytes of one GPU, above 0 and finite; leave it out"
            " for no limit"
        )
    if activation_compression is not None and not activation_compression > 0:
        raise PlanError(f"activation compression {activation_compression}: give a ratio above 0")


def plan_of(
    profile: Profile,
    states: States,
    levels: Sequence[Level],
    stages: Sequence[NestedStage],
    bottleneck_s: float | None,
    *,
    reason: str = "",
    cost_model: str = CORRECTED,
    data_parallel_s: float | None = None,
) -> Plan:
    """The record of a search's answer for a profile. `stages` are flat; without `data_parallel_s`
    the default cost model gives it."""
    single_s, parameter_bytes = float(states.compute_s[-1]), float(states.parameter_bytes[-1])
    if data_parallel_s is None:
        data_parallel_s = corrected.data_parallel_s(single_s, parameter_bytes, levels)
    whole = NestedStage(0, len(states) - 1, 1)
    return Plan(
        cost_model,
        tuple(level.workers for level in levels),
        bottleneck_s,
        data_parallel_s,
        _whole(memory_of(states, [whole])[0]),
        single_s,
        _stages(states, stages),
        reason,
        remarks_on(profile),
        number_in(profile, "update_s"),
        number_in(profile, "add_s"),
        halves_in(profile),
    )


def workers_of(levels: Sequence[Level]) -> int:
    """The number of workers of all levels together."""
    return math.prod(level.workers for level in levels)


def _stages(states: States, stages: Sequence[NestedStage]) -> tuple[PlannedStage, ...]:
    if not stages:
        return ()
    counts = warmup_counts([stage.replicas for stage in stages])
    needs = memory_of(states, stages)
    return tuple(
        PlannedStage(
            stage.start,
            stage.end - 1,
            stage.replicas,
            float(states.compute_s[stage.end] - states.compute_s[stage.start]),
            _whole(states.parameter_bytes[stage.end] - states.parameter_bytes[stage.start]),
            _whole(states.output_bytes[stage.end]),
            _whole(need),
            count + 1,
            states.node_ids(stage.start, stage.end),
            float(states.forward_s[stage.end] - states.forward_s[stage.start]),
        )
        for stage, count, need in zip(stages, counts, needs, strict=True)
    )


def _whole(size_bytes: float) -> float:
    """A byte count as an integer where it is one, for people who read the JSON."""
    size_bytes = float(size_bytes)
    return int(size_bytes) if size_bytes.is_integer() else size_bytes


def _needed_bytes(states: States, versions: int) -> Floats:
    memory = stage_memory(states)
    return versions * memory.per_version + memory.once


def _too_little(memory_bytes: float | None, least: float, workers: int) -> str:
    return (
        f"no plan for {workers} GPUs fits in {memory_bytes:.0f} bytes each: the leanest needs"
        f" {least:.0f}; give more memory or GPUs, or a smaller batch"
    )
