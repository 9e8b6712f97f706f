"""The default search: the best blocks for a hierarchy of workers, with or without a limit on
memory.

What lives here: which searches are made and which of their answers is taken. With one level there
is one search. With several, two families are searched: what the recursion over levels (PipeDream,
SOSP 2019, section 3.1) can express, and all workers in one row, each with its share of the slowest
link, which holds splits such as 3-1 on two nodes of two that the recursion lacks. Where the
recursion's best does not fit the memory, nodes whose workers all hold the same stage stand in for
it, because what a stage inside a node holds depends on all stages after it. The row holds every
split, so "nothing fits" is said only when it is so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_dnnbench.planner.blocks import Block, Level, flat_stages
from pytest_dnnbench.planner.corrected import LevelCosts, Unit, blocks_s, gpu
from pytest_dnnbench.planner.inner_levels import SearchedLevel, nested
from pytest_dnnbench.planner.memory import memory_of, stage_memory
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
    """memory_bytes: of each worker. activation_compression: None makes transfers free."""

    memory_bytes: float | None = None
    replication: bool = True
    activation_compression: float | None = 1.0


@dataclass(frozen=True, slots=True)
class Found:
    """Blocks, and the levels of workers that they are made for: the given ones, or all of them in
    one row."""

    blocks: tuple[Block, ...]
    levels: tuple[Level, ...]


def best_found(states: States, levels: Sequence[Level], limits: PlanLimits) -> Found | None:
    """The blocks with the least bottleneck, or None if nothing fits the memory."""
    inside, unit = None, gpu(states)
    for level in levels[:-1]:
        inside = SearchedLevel(_costs(states, unit, level, limits), inside)
        unit = inside.as_unit()
    costs = _costs(states, unit, levels[-1], limits)
    found = [_best(states, costs, inside, tuple(levels), limits)]
    if inside is not None:
        if found[0] is None and limits.replication:
            together = Unit(
                costs.unit.data_parallel_s, costs.unit.data_parallel_s, costs.unit.group
            )
            nodes = _costs(states, together, levels[-1], limits)
            found.append(_fitting(states, nodes, inside, tuple(levels), limits))
        row = _row_costs(states, levels, limits)
        found.append(_best(states, row, None, (row.level,), limits))
    return min(
        (each for each in found if each is not None),
        key=lambda each: (
            blocks_s(states, each.blocks, each.levels, limits.activation_compression),
            sum(stage.replicas for stage in flat_stages(each.blocks)),
        ),
        default=None,
    )


def leanest_bytes(states: States, levels: Sequence[Level], limits: PlanLimits) -> float:
    """The least memory with which any plan fits: of all plans, the smallest need of their neediest
    stage."""
    search = MemorySearch(_row_costs(states, levels, limits), stage_memory(states))

    def needed(stages: Stages) -> float:
        return max(memory_of(states, [Block(*stage) for stage in stages]))

    leanest = least(lambda limit_bytes: search.stages_within(NO_LIMIT, limit_bytes), needed)
    assert leanest is not None, "everything fits an endless memory"
    return needed(leanest)


def _best(
    states: States,
    costs: LevelCosts,
    inside: SearchedLevel | None,
    levels: tuple[Level, ...],
    limits: PlanLimits,
) -> Found | None:
    """The best of a family; if it does not fit the memory, the best that does of one level, and
    None of several."""
    stages = least(
        lambda limit_s: stages_with_fewest_workers(costs, limit_s),
        lambda stages: slowest_s(costs, stages),
    )
    assert stages is not None, "one stage on one worker keeps within any time"
    found = Found(tuple(nested(costs, inside, stage) for stage in stages), levels)
    if (
        limits.memory_bytes is None
        or max(memory_of(states, flat_stages(found.blocks))) <= limits.memory_bytes
    ):
        return found
    return _fitting(states, costs, None, levels, limits) if inside is None else None


def _fitting(
    states: States,
    costs: LevelCosts,
    inside: SearchedLevel | None,
    levels: tuple[Level, ...],
    limits: PlanLimits,
) -> Found | None:
    """The best plan on the outermost level that fits; units, if they are nodes, are of one stage
    each."""
    assert limits.memory_bytes is not None
    search, limit_bytes = MemorySearch(costs, stage_memory(states)), limits.memory_bytes
    stages = least(
        lambda limit_s: search.stages_within(limit_s, limit_bytes),
        lambda stages: slowest_s(costs, stages),
    )
    if stages is None:
        return None
    blocks = (
        Block(start, end, replicas, inside.data_parallel(start, end) if inside else ())
        for start, end, replicas in stages
    )
    return Found(tuple(blocks), levels)


def _row_costs(states: States, levels: Sequence[Level], limits: PlanLimits) -> LevelCosts:
    """All workers side by side; the GPUs of a unit share its link, and the slowest share counts."""
    workers, share = 1, math.inf
    for level in levels:
        share = min(share, level.bandwidth / workers)
        workers *= level.workers
    return _costs(states, gpu(states), Level(workers, share), limits)


def _costs(states: States, unit: Unit, level: Level, limits: PlanLimits) -> LevelCosts:
    return LevelCosts(states, unit, level, limits.activation_compression, limits.replication)
