"""From a profile to a Plan: the two questions that the rest of the package asks.

    plan_for      which stages are best for these workers?
    even_plan     which cuts are best for this shape, for instance 2-1?

What does not live here: the searches (hierarchy.py, original.py, forced.py) and what stages cost.
"""

import math
from collections.abc import Sequence

import numpy as np

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner import corrected
from pytest_dnnbench.planner.blocks import Block, Level, flat_stages, levels_of
from pytest_dnnbench.planner.forced import best_cuts, most_stages
from pytest_dnnbench.planner.hierarchy import Found, PlanLimits, best_found, leanest_bytes
from pytest_dnnbench.planner.memory import memory_of, stage_memory
from pytest_dnnbench.planner.pipedream import cost_model as original
from pytest_dnnbench.planner.plan import Plan, Stage
from pytest_dnnbench.planner.profile import Profile
from pytest_dnnbench.planner.states import Floats, States, states_of
from pytest_dnnbench.planner.warmup import warmup_counts

CORRECTED = "corrected"
ORIGINAL = "original"
COST_MODELS = (CORRECTED, ORIGINAL)


def plan_for(
    profile: Profile,
    workers: Sequence[int],
    bandwidths: Sequence[float],
    *,
    cost_model: str = CORRECTED,
    memory_bytes: float | None = None,
    replication: bool = True,
    activation_compression: float | None = 1.0,
) -> Plan:
    """The plan with the least bottleneck for a hierarchy of workers.

    `workers` and `bandwidths` (bytes per second) have one entry per level, innermost first: (4, 2) is four GPUs in
    each of two nodes. `memory_bytes` limits what each worker may hold; without `replication` every stage has one
    replica; `activation_compression` divides what crosses a cut, None makes crossing free. A memory that suffices
    for nothing gives a plan without stages that says why. Raises PlanError for workers, bandwidths, a memory or
    a cost model that cannot be.
    """
    levels = levels_of(workers, bandwidths)
    if cost_model not in COST_MODELS:
        raise PlanError(f"cost model {cost_model!r}: choose from {', '.join(COST_MODELS)}")
    _check_limits(memory_bytes, activation_compression)
    states = states_of(profile)
    if cost_model == ORIGINAL:
        options = original.OriginalOptions(activation_compression, memory_bytes, replication)
        return _original_plan(states, levels, options)
    limits = PlanLimits(memory_bytes, replication, activation_compression)
    found = best_found(states, levels, limits)
    if found is None:
        least = leanest_bytes(states, levels, limits)
        return _plan(states, levels, (), None, _too_little(memory_bytes, least, _count(levels)))
    return _corrected_plan(states, levels, found, activation_compression)


def even_plan(
    profile: Profile,
    replicas: Sequence[int],
    *,
    bandwidth: float | None = None,
    memory_bytes: float | None = None,
    activation_compression: float | None = 1.0,
) -> Plan:
    """The plan with the least bottleneck among those of one shape: one stage for each number of replicas.

    Without a bandwidth, transfers and all-reduces are free and stages are as even in compute as can be. Raises
    PlanError for a shape that cannot be, or with more stages than the model has places to cut it into.
    """
    counts = warmup_counts(replicas)
    _check_limits(memory_bytes, activation_compression)
    states = states_of(profile)
    most = most_stages(states.inside)
    if len(replicas) > most:
        raise PlanError(
            f"{len(replicas)} stages, but the model can be cut into {most} at most: ask for fewer"
        )
    level = Level(sum(replicas), math.inf if bandwidth is None else bandwidth)
    costs = corrected.LevelCosts(states, corrected.gpu(states), level, activation_compression, True)
    needed = [_needed_bytes(states, count + 1) for count in counts]
    seconds = [costs.seconds(count) for count in replicas]
    if memory_bytes is not None:
        seconds = [
            np.where(n > memory_bytes, np.inf, s) for n, s in zip(needed, seconds, strict=True)
        ]
    stages = best_cuts(seconds, replicas)
    if stages is None:
        leanest = best_cuts([np.where(states.inside, n, np.inf) for n in needed], replicas) or ()
        least = max(memory_of(states, [Block(*stage) for stage in leanest]))
        return _plan(states, (level,), (), None, _too_little(memory_bytes, least, level.workers))
    found = Found(tuple(Block(*stage) for stage in stages), (level,))
    return _corrected_plan(states, (level,), found, activation_compression)


def _check_limits(memory_bytes: float | None, activation_compression: float | None) -> None:
    if memory_bytes is not None and not memory_bytes > 0:
        raise PlanError(f"memory {memory_bytes}: give the bytes of one worker, above 0")
    if activation_compression is not None and not activation_compression > 0:
        raise PlanError(f"activation compression {activation_compression}: give a ratio above 0")


def _corrected_plan(
    states: States, levels: Sequence[Level], found: Found, compression: float | None
) -> Plan:
    bottleneck_s = corrected.blocks_s(states, found.blocks, found.levels, compression)
    return _plan(states, levels, flat_stages(found.blocks), bottleneck_s)


def _original_plan(
    states: States, levels: Sequence[Level], options: original.OriginalOptions
) -> Plan:
    blocks = original.best_blocks(states, levels, options)
    data_parallel_s = original.data_parallel_s(
        float(states.compute_s[-1]), float(states.parameter_bytes[-1]), levels
    )
    reason, bottleneck_s = "", None
    if blocks:
        bottleneck_s = original.blocks_s(states, blocks, levels, options.activation_compression)
    else:
        reason = (
            f"the original cost model puts all {_count(levels)} workers to use, and no stages do that within "
            f"its limits: give more memory, allow replication, or use the default cost model"
        )
    return _plan(
        states, levels, flat_stages(blocks), bottleneck_s, reason, ORIGINAL, data_parallel_s
    )


def _plan(
    states: States,
    levels: Sequence[Level],
    blocks: Sequence[Block],
    bottleneck_s: float | None,
    reason: str = "",
    cost_model: str = CORRECTED,
    data_parallel_s: float | None = None,
) -> Plan:
    single_s, parameter_bytes = float(states.compute_s[-1]), float(states.parameter_bytes[-1])
    if data_parallel_s is None:
        data_parallel_s = corrected.data_parallel_s(single_s, parameter_bytes, levels)
    whole = Block(0, len(states) - 1, 1)
    return Plan(
        cost_model,
        tuple(level.workers for level in levels),
        bottleneck_s,
        data_parallel_s,
        memory_of(states, [whole])[0],
        single_s,
        _stages(states, blocks),
        reason,
    )


def _stages(states: States, blocks: Sequence[Block]) -> tuple[Stage, ...]:
    if not blocks:
        return ()
    counts = warmup_counts([block.replicas for block in blocks])
    needs = memory_of(states, blocks)
    return tuple(
        Stage(
            block.start,
            block.end - 1,
            block.replicas,
            float(states.compute_s[block.end] - states.compute_s[block.start]),
            float(states.parameter_bytes[block.end] - states.parameter_bytes[block.start]),
            float(states.output_bytes[block.end]),
            need,
            count + 1,
            states.node_ids(block.start, block.end),
        )
        for block, count, need in zip(blocks, counts, needs, strict=True)
    )


def _needed_bytes(states: States, versions: int) -> Floats:
    memory = stage_memory(states)
    return versions * memory.per_version + memory.once


def _count(levels: Sequence[Level]) -> int:
    return math.prod(level.workers for level in levels)


def _too_little(memory_bytes: float | None, least: float, workers: int) -> str:
    return (
        f"no plan for {workers} workers fits in {memory_bytes:.0f} bytes each: the leanest needs {least:.0f}; "
        f"give more memory or workers, or a smaller batch"
    )
