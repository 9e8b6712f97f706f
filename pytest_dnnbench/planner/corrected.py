"""The default cost model: what a stage costs when PipeDream runs as its paper describes it.

What lives here: the time of a stage on a level of workers, and of a given plan. Sources: PipeDream
(SOSP 2019, section 3.1) for the overlap of compute and all-reduce; a ring all-reduce over r
replicas moves 2 (r - 1) / r times the parameters over each link; a cut uses the links of both its
stages. The formulas, with their letters, are in docs/planner.md. Not here: memory (memory.py) and
the searches (outermost_level.py, inner_levels.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from pytest_dnnbench.planner.levels import Level
from pytest_dnnbench.planner.nested_stages import NestedStage
from pytest_dnnbench.planner.states import Floats, States


def stage_s(compute_s: Any, parameter_bytes: Any, replicas: Any, bandwidth: float) -> Any:
    """Seconds per minibatch of a stage: compute beside a ring all-reduce, shared by its replicas.
    Takes numbers or arrays."""
    reduced_s = 2.0 * (replicas - 1) / replicas * parameter_bytes / bandwidth
    return np.maximum(compute_s, reduced_s) / replicas


def moved_s(sent_bytes: Any, bandwidth: float, compression: float | None) -> Any:
    """Seconds per minibatch to move the bytes that cross a cut, and their gradients, over one
    worker's link."""
    return sent_bytes * (0.0 if compression is None else 2.0 / (bandwidth * compression))


def data_parallel_s(compute_s: float, parameter_bytes: float, levels: Sequence[Level]) -> float:
    """Seconds per minibatch when every worker runs the whole model and all reduce together, level
    by level."""
    group = 1
    for level in levels:
        compute_s = float(
            stage_s(compute_s, parameter_bytes, level.workers, level.bandwidth * group)
        )
        group *= level.workers
    return compute_s


@dataclass(frozen=True)
class Unit:
    """How fast one unit of a level (a GPU, or a node of GPUs) runs each stage, as n x n tables.

    pipeline_s        seconds per minibatch of its best way to run stage (a, b)
    data_parallel_s   the same when all its `group` GPUs hold the whole stage; an update then
                      averages over that many more minibatches, and the all-reduce between units
                      comes that much less often
    """

    pipeline_s: Floats
    data_parallel_s: Floats
    group: int


@dataclass(frozen=True)
class LevelCosts:
    """Seconds per minibatch of stages on one level of workers, as n x n tables; infinity at pairs
    of states that are no stage."""

    states: States
    unit: Unit
    level: Level
    compression: float | None
    replication: bool

    @property
    def replicas_at_most(self) -> int:
        return self.level.workers if self.replication else 1

    @cached_property
    def parameter_bytes(self) -> Floats:
        return self.states.between(self.states.parameter_bytes)

    @cached_property
    def moved_s(self) -> Floats:
        """n numbers: seconds on one link to move the bytes that cross the cut at a state."""
        return np.asarray(moved_s(self.states.sent_bytes, self.level.bandwidth, self.compression))

    def data_parallel_inside(self, replicas: Any) -> Any:
        return stage_s(
            self.unit.data_parallel_s,
            self.parameter_bytes,
            replicas,
            self.level.bandwidth * self.unit.group,
        )

    def pipeline_inside(self, replicas: Any) -> Any:
        return stage_s(self.unit.pipeline_s, self.parameter_bytes, replicas, self.level.bandwidth)

    def working_s(self, replicas: Any) -> Any:
        """Compute and all-reduce of each stage, without transfers. `replicas` is one number for all
        stages, or one for each."""
        if self.unit.group == 1:
            return self.pipeline_inside(replicas)
        return np.minimum(self.pipeline_inside(replicas), self.data_parallel_inside(replicas))

    def seconds_of(self, starts: Any, ends: Any, replicas: Any) -> Any:
        """As `seconds`, for a list of stages and without the tables."""
        parameter_bytes, bandwidth = self.parameter_bytes[starts, ends], self.level.bandwidth
        working = np.minimum(
            stage_s(self.unit.pipeline_s[starts, ends], parameter_bytes, replicas, bandwidth),
            stage_s(
                self.unit.data_parallel_s[starts, ends],
                parameter_bytes,
                replicas,
                bandwidth * self.unit.group,
            ),
        )
        moved = np.maximum(self.moved_s[starts], self.moved_s[ends]) / replicas
        return np.maximum(working, moved)

    def seconds(self, replicas: Any) -> Any:
        """Compute, all-reduce and the transfers over both cuts of each stage."""
        crossing = np.maximum(self.moved_s[:, None], self.moved_s[None, :]) / replicas
        return np.maximum(self.working_s(replicas), crossing)


def gpu(states: States) -> Unit:
    """The innermost unit: it runs a stage alone."""
    compute_s = np.where(states.inside, states.between(states.compute_s), np.inf)
    return Unit(compute_s, compute_s, 1)


def stages_s(
    states: States,
    stages: Sequence[NestedStage],
    levels: Sequence[Level],
    compression: float | None,
) -> float:
    """Seconds per minibatch of given stages: the figure of the search, computed without a
    search."""
    level, slowest = levels[-1], 0.0
    for stage in stages:
        compute_s = (
            stages_s(states, stage.inner, levels[:-1], compression)
            if stage.inner
            else states.compute_s[stage.end] - states.compute_s[stage.start]
        )
        parameter_bytes = states.parameter_bytes[stage.end] - states.parameter_bytes[stage.start]
        group = _group(stage.inner, levels[:-1])
        working = stage_s(compute_s, parameter_bytes, stage.replicas, level.bandwidth * group)
        slowest = max(slowest, float(working))
    for stage, following in pairwise(stages):
        crossing = moved_s(states.sent_bytes[stage.end], level.bandwidth, compression)
        slowest = max(slowest, float(crossing / min(stage.replicas, following.replicas)))
    return slowest


def _group(inner: Sequence[NestedStage], levels: Sequence[Level]) -> int:
    """GPUs of a unit if all of them hold the whole stage, else 1."""
    if not levels:
        return 1
    whole = len(inner) == 1 and inner[0].replicas == levels[-1].workers
    below = _group(inner[0].inner, levels[:-1]) if whole else 0
    in_all = int(np.prod([level.workers for level in levels[:-1]], initial=1))
    return below * levels[-1].workers if below == in_all else 1
