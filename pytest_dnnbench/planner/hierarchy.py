"""The default search: the best stages for a hierarchy of workers, with or without a limit on
memory.

What lives here: which searches are made and which of their answers is taken. A case has one level,
and one search. With several levels, two families of plans are searched: those that the recursion
over levels (PipeDream, SOSP 2019, section 3.1) can express, and those of all workers in one row,
each with its share of the slowest link. The row has splits that the recursion lacks, such as 3-1 on
two nodes of two. Where the recursion's best does not fit the memory, nodes whose workers all hold
the same stage are searched instead, because the memory of a stage inside a node depends on all
stages after it. The row has every split, so the search reports that nothing fits only when that is
true.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_dnnbench.planner.corrected import LevelCosts, Unit, gpu, stages_s
from pytest_dnnbench.planner.inner_levels import SearchedLevel, nested
from pytest_dnnbench.planner.levels import Level
from pytest_dnnbench.planner.memory import memory_of, stage_memory
from pytest_dnnbench.planner.nested_stages import NestedStage, flat_stages
from pytest_dnnbench.planner.outermost_level import (
    NO_LIMIT,
    MemorySearch,
    Stages,
    least,
    slowest_s,
    stages_with_fewest_workers,
)
from pytest_dnnbench.planner.states import States


@dataclass(frozen=True, slots=True)
class PlanLimits:
    """`memory_bytes` is of each worker, None: no limit. `activation_compression` divides the bytes
    that cross a cut, None makes transfers free."""

    memory_bytes: float | None = None
    replication: bool = True
    activation_compression: float | None = 1.0


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Stages, and the levels of workers that they are made for: the given levels, or all workers in
    one row."""

    stages: tuple[NestedStage, ...]
    levels: tuple[Level, ...]


def best_arrangement(
    states: States, levels: Sequence[Level], limits: PlanLimits
) -> Arrangement | None:
    """The stages with the least bottleneck, or None if nothing fits the memory."""
    inside, unit = None, gpu(states)
    for level in levels[:-1]:
        inside = SearchedLevel(_costs(states, unit, level, limits), inside)
        unit = inside.as_unit()
    costs = _costs(states, unit, levels[-1], limits)
    candidates = [_best(states, costs, inside, tuple(levels), limits)]
    if inside is not None:
        if candidates[0] is None and limits.replication:
            together = Unit(
                costs.unit.data_parallel_s, costs.unit.data_parallel_s, costs.unit.group
            )
            nodes = _costs(states, together, levels[-1], limits)
            candidates.append(_fitting(states, nodes, inside, tuple(levels), limits))
        row = _row_costs(states, levels, limits)
        candidates.append(_best(states, row, None, (row.level,), limits))
    return min(
        (candidate for candidate in candidates if candidate is not None),
        key=lambda candidate: (
            stages_s(states, candidate.stages, candidate.levels, limits.activation_compression),
            sum(stage.replicas for stage in flat_stages(candidate.stages)),
        ),
        default=None,
    )


def leanest_bytes(states: States, levels: Sequence[Level], limits: PlanLimits) -> float:
    """The least memory of each worker with which any plan fits: over all plans, the smallest memory
    of the plan's largest stage."""
    search = MemorySearch(_row_costs(states, levels, limits), stage_memory(states))

    def needed(stages: Stages) -> float:
        return max(memory_of(states, [NestedStage(*stage) for stage in stages]))

    leanest = least(lambda limit_bytes: search.stages_within(NO_LIMIT, limit_bytes), needed)
    assert leanest is not None, "every plan fits an unlimited memory"
    return needed(leanest)


def _best(
    states: States,
    costs: LevelCosts,
    inside: SearchedLevel | None,
    levels: tuple[Level, ...],
    limits: PlanLimits,
) -> Arrangement | None:
    """The best of a family. Where that does not fit the memory: for one level the best that fits,
    for several levels None."""
    stages = least(
        lambda limit_s: stages_with_fewest_workers(costs, limit_s),
        lambda stages: slowest_s(costs, stages),
    )
    assert stages is not None, "one stage on one worker keeps every finite time limit"
    best = Arrangement(tuple(nested(costs, inside, stage) for stage in stages), levels)
    if (
        limits.memory_bytes is None
        or max(memory_of(states, flat_stages(best.stages))) <= limits.memory_bytes
    ):
        return best
    return _fitting(states, costs, None, levels, limits) if inside is None else None


def _fitting(
    states: States,
    costs: LevelCosts,
    inside: SearchedLevel | None,
    levels: tuple[Level, ...],
    limits: PlanLimits,
) -> Arrangement | None:
    """The best plan on the outermost level that fits the memory. A unit that is a node runs one
    stage."""
    assert limits.memory_bytes is not None
    search, limit_bytes = MemorySearch(costs, stage_memory(states)), limits.memory_bytes
    stages = least(
        lambda limit_s: search.stages_within(limit_s, limit_bytes),
        lambda stages: slowest_s(costs, stages),
    )
    if stages is None:
        return None
    nested_stages = (
        NestedStage(start, end, replicas, inside.data_parallel(start, end) if inside else ())
        for start, end, replicas in stages
    )
    return Arrangement(tuple(nested_stages), levels)


def _row_costs(states: States, levels: Sequence[Level], limits: PlanLimits) -> LevelCosts:
    """The costs of all workers side by side. The GPUs of a unit share its link; the slowest share
    counts."""
    workers, share = 1, math.inf
    for level in levels:
        share = min(share, level.bandwidth / workers)
        workers *= level.workers
    return _costs(states, gpu(states), Level(workers, share), limits)


def _costs(states: States, unit: Unit, level: Level, limits: PlanLimits) -> LevelCosts:
    return LevelCosts(states, unit, level, limits.activation_compression, limits.replication)
