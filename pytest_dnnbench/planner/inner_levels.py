"""The levels inside the outermost one: the best way for each unit to run each stretch of the model.

What lives here: from a level of workers to the Unit of the next level, and the way back to the
stages. The time of a stretch includes the cuts within it. The cuts at its two ends use the next
level's links and count there. So there are two kinds of tables: of a front, which has a further
stage after it and includes the cut at its end, and of a finished stretch, which does not.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pytest_dnnbench.planner.corrected import LevelCosts, Unit, stage_s
from pytest_dnnbench.planner.nested_stages import NestedStage
from pytest_dnnbench.planner.pipelines import (
    StageCosts,
    Stretch,
    best_time,
    best_times,
    last_stage,
    stages_of,
)
from pytest_dnnbench.planner.states import Floats


@dataclass(frozen=True)
class SearchedLevel:
    """One level after its search. `inside` is the level below, None for the innermost."""

    costs: LevelCosts
    inside: "SearchedLevel | None"

    @cached_property
    def _working_s(self) -> list[Floats]:
        """The tables of compute and all-reduce, for each number of replicas from 1 on."""
        return [
            self.costs.working_s(replicas) for replicas in range(1, self.costs.replicas_at_most + 1)
        ]

    @cached_property
    def _front(self) -> StageCosts:
        moved = self.costs.moved_s

        def whole(m: int) -> Floats:
            if m > len(self._working_s):
                return np.full_like(self._working_s[0], np.inf)
            return np.maximum(self._working_s[m - 1], moved[None, :] / m)

        def last(_: int, r: int) -> Floats:
            return np.maximum(whole(r), moved[:, None] / r)

        return StageCosts(whole, last, self.costs.replicas_at_most)

    @cached_property
    def _finished(self) -> StageCosts:
        moved = self.costs.moved_s

        def whole(m: int) -> Floats:
            return np.asarray(np.minimum.reduce(self._working_s[:m]))

        def last(_: int, r: int) -> Floats:
            return np.maximum(self._working_s[r - 1], moved[:, None] / r)

        return StageCosts(whole, last, self.costs.replicas_at_most)

    @cached_property
    def _front_s(self) -> list[Floats]:
        return best_times(self._front, self.costs.level.workers, len(self.costs.states), fewer=True)

    @cached_property
    def _finished_s(self) -> Floats:
        return best_time(self._finished, self._front_s, self.costs.level.workers, fewer=False)

    def as_unit(self) -> Unit:
        """All workers of this level as one unit of the next."""
        costs, level = self.costs, self.costs.level
        group = costs.unit.group * level.workers
        together = stage_s(
            costs.unit.data_parallel_s,
            costs.parameter_bytes,
            level.workers,
            level.bandwidth * costs.unit.group,
        )
        shared = together if costs.replication else np.full_like(together, np.inf)
        return Unit(self._finished_s.T, shared, group)

    def pipeline(self, start: int, end: int) -> tuple[NestedStage, ...]:
        """The stages behind `as_unit().pipeline_s[start, end]`."""
        return tuple(self.stage(stretch) for stretch in self._stretches(start, end))

    def _stretches(self, start: int, end: int) -> tuple[Stretch, ...]:
        time_s = self._finished_s[end, start]
        for replicas, working_s in enumerate(self._working_s, start=1):
            if working_s[start, end] == time_s:
                return ((start, end, replicas),)
        m = self.costs.level.workers
        cut, r = last_stage(self._finished, self._front_s, (start, end, m), time_s)
        return (
            *stages_of(self._front, self._front_s, (start, cut, m - r), fewer=True),
            (cut, end, r),
        )

    def stage(self, stretch: Stretch) -> NestedStage:
        """A stage of this level with the better of the two ways to run it inside each unit."""
        return nested(self.costs, self.inside, stretch)

    def data_parallel(self, start: int, end: int) -> tuple[NestedStage, ...]:
        """The one stage in which every worker of this level, and below, runs the whole stretch."""
        inner = self.inside.data_parallel(start, end) if self.inside else ()
        return (NestedStage(start, end, self.costs.level.workers, inner),)


def nested(costs: LevelCosts, inside: SearchedLevel | None, stretch: Stretch) -> NestedStage:
    """A stage of a level, split inside each unit in the cheaper way; of equals, data
    parallelism."""
    start, end, replicas = stretch
    if inside is None:
        return NestedStage(start, end, replicas)
    data_parallel_s = costs.data_parallel_inside(replicas)[start, end]
    if data_parallel_s <= costs.pipeline_inside(replicas)[start, end]:
        return NestedStage(start, end, replicas, inside.data_parallel(start, end))
    return NestedStage(start, end, replicas, inside.pipeline(start, end))
