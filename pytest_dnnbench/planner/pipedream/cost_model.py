"""The cost model `original`: what PipeDream's published optimizer computes, kept for comparison.

It differs from the paper in ways that matter, which the default cost model (planner/corrected.py)
repairs: an all-reduce is added to compute and costs twice as much as a ring's, transfers count the
replicas of the later stage only, the last stage and pure data parallelism need no memory, and the
plan must use every worker, with stages without work if need be. Source: msr-fiddle/pipedream,
optimizer/optimizer_graph_hierarchical.py; the formulas are in docs/planner.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np

from pytest_dnnbench.planner.levels import Level
from pytest_dnnbench.planner.nested_stages import NestedStage
from pytest_dnnbench.planner.pipelines import StageCosts, best_times, stages_of
from pytest_dnnbench.planner.states import Floats, States

Number = TypeVar("Number", float, Floats)


@dataclass(frozen=True, slots=True)
class Load:
    """The work of a stage for one minibatch. `output_bytes` is None at the end of the model."""

    compute_s: float
    parameter_bytes: float
    output_bytes: float | None


@dataclass(frozen=True, slots=True)
class OriginalOptions:
    """`activation_compression` None makes transfers free; `memory_bytes` None means no limit."""

    activation_compression: float | None = 1.0
    memory_bytes: float | None = None
    replication: bool = True


def stage_s(compute_s: Number, parameter_bytes: Number, replicas: int, bandwidth: float) -> Number:
    """Seconds per minibatch of one stage: compute and then an all-reduce, shared by its
    replicas."""
    return (compute_s + 4 * (replicas - 1) * parameter_bytes / (bandwidth * replicas)) / replicas


def transfer_s(
    sent_bytes: Number, replicas: int, bandwidth: float, compression: float | None
) -> Number:
    """Seconds per minibatch to move what crosses a cut, and its gradient, over the links of
    `replicas` workers."""
    return sent_bytes * (0.0 if compression is None else 2.0 / (bandwidth * replicas * compression))


def pipeline_s(
    loads: Sequence[Load],
    replicas: Sequence[int],
    level: Level,
    workers_below: int,
    compression: float | None,
) -> float:
    """Seconds per minibatch of consecutive stages on one level: the slowest of them and of their
    transfers."""
    foremost, *others = loads
    slowest = stage_s(
        foremost.compute_s, foremost.parameter_bytes, replicas[0], level.bandwidth * workers_below
    )
    sent = foremost.output_bytes
    for load, count in zip(others, replicas[1:], strict=True):
        crossing = max(sent or 0.0, load.output_bytes or 0.0)
        compute_s = stage_s(load.compute_s, load.parameter_bytes, count, level.bandwidth)
        transferred_s = transfer_s(crossing, count, level.bandwidth, compression)
        slowest = max(slowest, compute_s, transferred_s)
        sent = load.output_bytes
    return slowest


def data_parallel_s(compute_s: float, parameter_bytes: float, levels: Sequence[Level]) -> float:
    """Seconds per minibatch when every worker runs the whole model."""
    below = 1
    for level in levels:
        compute_s = stage_s(compute_s, parameter_bytes, level.workers, level.bandwidth * below)
        below = level.workers
    return compute_s


def best_stages(
    states: States, levels: Sequence[Level], options: OriginalOptions
) -> tuple[NestedStage, ...]:
    """The stages of the outermost level with the least bottleneck; empty if the original has no
    plan."""
    searched = _search(states, levels, options, impossible=False)
    end = len(states) - 1
    if math.isinf(searched[-1][1][-1][end, 0]):
        return ()
    return _nested(searched, levels, 0, end)


def least_with_impossible_stages_s(
    states: States, levels: Sequence[Level], options: OriginalOptions
) -> float:
    """A lower bound of what the original may print for several levels.

    Inside a node it also lets a stretch end at a state that does not contain the stretch's first
    state, and takes the difference of their times for its time. No stage is like that. Which of
    these it tries depends on how it happens to number the states; here it may try all.
    """
    return float(_search(states, levels, options, impossible=True)[-1][1][-1][-1, 0])


def _search(
    states: States, levels: Sequence[Level], options: OriginalOptions, *, impossible: bool
) -> list[tuple[StageCosts, list[Floats]]]:
    """The costs and best times of each level, innermost first."""
    differences = states.between(states.compute_s)
    counted = ~(states.inside.T | np.eye(len(states), dtype=bool)) if impossible else states.inside
    whole_s = np.where(counted, differences, np.inf)
    searched: list[tuple[StageCosts, list[Floats]]] = []
    below = 1
    for depth, level in enumerate(levels):
        starts = 1 if depth == len(levels) - 1 else len(states)
        costs = _costs(states, whole_s, level, below, starts, options)
        best = best_times(costs, level.workers, starts, fewer=False)
        searched.append((costs, best))
        whole_s, below = best[-1].T, level.workers
    return searched


def _costs(
    states: States,
    whole_s: Floats,
    level: Level,
    below: int,
    starts: int,
    options: OriginalOptions,
) -> StageCosts:
    """The costs of stages on one level; of those that are a whole stretch, for the first `starts`
    start states only. `whole_s` are the seconds of each on one unit of the level."""
    compute_s = np.where(states.inside, whole_s, np.inf)
    parameter_bytes = states.between(states.parameter_bytes)
    stashed_bytes = states.between(states.activation_bytes) + parameter_bytes
    limit = math.inf if options.memory_bytes is None else options.memory_bytes
    sent = np.append(states.augmented_bytes[:-1], 0.0)

    def fits(seconds: Floats, m: int, r: int) -> Floats:
        if math.isinf(limit):
            return seconds
        stashed = math.ceil((level.workers - m) / r) * stashed_bytes[: len(seconds)]
        return np.where(stashed > limit, np.inf, seconds)

    def whole(m: int) -> Floats:
        if m > 1 and not options.replication:
            return np.full_like(whole_s[:starts], np.inf)
        return fits(
            stage_s(whole_s[:starts], parameter_bytes[:starts], m, level.bandwidth * below), m, m
        )

    @cache
    def on_replicas(r: int) -> Floats:
        moved = transfer_s(sent, r, level.bandwidth, options.activation_compression)
        slowest = stage_s(compute_s, parameter_bytes, r, level.bandwidth)
        np.maximum(slowest, moved[:, None], out=slowest)
        return np.maximum(slowest, moved[None, :], out=slowest)

    def last(m: int, r: int) -> Floats:
        return fits(on_replicas(r), m, r)

    return StageCosts(whole, last, level.workers if options.replication else 1)


def _nested(
    searched: Sequence[tuple[StageCosts, list[Floats]]],
    levels: Sequence[Level],
    start: int,
    end: int,
) -> tuple[NestedStage, ...]:
    costs, best = searched[-1]
    stages = stages_of(costs, best, (start, end, levels[-1].workers), fewer=False)
    if len(levels) == 1:
        return tuple(NestedStage(*stage) for stage in stages)
    return tuple(
        NestedStage(a, b, r, _nested(searched[:-1], levels[:-1], a, b)) for a, b, r in stages
    )


def stages_s(
    states: States,
    stages: Sequence[NestedStage],
    levels: Sequence[Level],
    compression: float | None,
) -> float:
    """Seconds per minibatch of given stages: the figure of the search, computed without a
    search."""
    loads = [
        Load(
            stages_s(states, stage.inner, levels[:-1], compression)
            if stage.inner
            else float(states.compute_s[stage.end] - states.compute_s[stage.start]),
            float(states.parameter_bytes[stage.end] - states.parameter_bytes[stage.start]),
            None if stage.end == len(states) - 1 else float(states.augmented_bytes[stage.end]),
        )
        for stage in stages
    ]
    below = levels[-2].workers if len(levels) > 1 else 1
    return pipeline_s(loads, [stage.replicas for stage in stages], levels[-1], below, compression)
