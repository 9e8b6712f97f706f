"""The outermost level: the search for the stages with the least bottleneck.

What lives here: two answers to "which stages take at most this many seconds each?", one on the
fewest workers and one that also fits a memory, and the search for the least limit with an answer.
Under a limit the number of replicas of a stage is a lookup, so thousands of workers cost no more
than four.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.corrected import LevelCosts
from pytest_dnnbench.planner.memory import StageMemory
from pytest_dnnbench.planner.pipelines import Stretch
from pytest_dnnbench.planner.states import Floats

Counts = NDArray[np.int64]
Stages = tuple[Stretch, ...]

NEVER = 1 << 40
"""More workers or minibatches than anyone has; the sum of two still fits an int64."""

CLOSE = 1e-9
"""Relative width at which the bisection stops and the exact search begins."""

NO_LIMIT = sys.float_info.max
"""Below infinity, which stands for a stage that does not exist."""

MOST_WORKERS_IN_MEMORY = 128
"""The search under a memory limit looks at all pairs of worker counts and replicas."""


def least(
    stages_within: Callable[[float], Stages | None], measure: Callable[[Stages], float]
) -> Stages | None:
    """The stages with the least measure; None if no stages are possible at all.

    `stages_within(limit)` gives stages whose measure is at most the limit, or None. The search
    bisects until the limits are CLOSE, then asks for strictly less until there is nothing: the
    result is exact.
    """
    stages = stages_within(NO_LIMIT)
    if stages is None:
        return None
    low, high = 0.0, measure(stages)
    while high - low > CLOSE * high:
        middle = (low + high) / 2
        stages = stages_within(middle)
        low, high = (middle, high) if stages is None else (low, _below(high, measure(stages)))
    while high > 0 and (stages := stages_within(math.nextafter(high, 0.0))) is not None:
        high = _below(high, measure(stages))
    return stages_within(high)


def _below(high: float, measured: float) -> float:
    """The measure, after a check: if search and measure disagreed, the loop would never end."""
    assert measured < high, f"requested less than {high}, got {measured}"
    return measured


def slowest_s(costs: LevelCosts, stages: Stages) -> float:
    """The seconds of the slowest stage."""
    starts, ends, replicas = (np.array(each) for each in zip(*stages, strict=True))
    return float(costs.seconds_of(starts, ends, replicas).max())


def stages_with_fewest_workers(costs: LevelCosts, limit_s: float) -> Stages | None:
    """Stages within the limit on the fewest workers, or None if that is more than the level
    has."""
    replicas = fewest_replicas(costs, limit_s)
    count = len(replicas)
    workers = np.full(count, NEVER, dtype=np.int64)
    cuts = np.zeros(count, dtype=np.int64)
    workers[0] = 0
    into = np.ascontiguousarray(replicas.T)
    for end in range(1, count):
        used = workers[:end] + into[end, :end]
        cuts[end] = used.argmin()
        workers[end] = min(int(used[cuts[end]]), NEVER)
    if workers[-1] > costs.level.workers:
        return None
    stages: list[Stretch] = []
    end = count - 1
    while end > 0:
        start = int(cuts[end])
        stages.append((start, end, int(replicas[start, end])))
        end = start
    return tuple(reversed(stages))


def fewest_replicas(costs: LevelCosts, limit_s: float) -> Counts:
    """n x n: the least number of replicas that keeps a stage within the limit, NEVER if no number
    does.

    From two replicas on, more are never slower: compute, transfers and (r - 1) / r^2 of an
    all-reduce all fall. So the least number is one, or follows from those three in closed form. A
    look at the neighbours of the closed form corrects its rounding.
    """
    alone = costs.seconds(1) <= limit_s
    if not costs.replication or limit_s <= 0:
        return np.where(alone, 1, NEVER)
    bandwidth, unit = costs.level.bandwidth, costs.unit
    guess = _replicas(costs, unit.pipeline_s, bandwidth, limit_s)
    if unit.group > 1:
        guess = np.minimum(
            guess, _replicas(costs, unit.data_parallel_s, bandwidth * unit.group, limit_s)
        )
    guess = np.where(
        (guess > 2) & (costs.seconds(np.maximum(guess - 1, 1)) <= limit_s), guess - 1, guess
    )
    guess = np.where(costs.seconds(guess) > limit_s, guess + 1, guess)
    kept = (costs.seconds(guess) <= limit_s) & (guess <= costs.level.workers)
    return np.where(alone, 1, np.where(kept, guess, NEVER))


def _replicas(costs: LevelCosts, compute_s: Floats, bandwidth: float, limit_s: float) -> Counts:
    """The least r of two or more with compute / r, transfers / r and 2 (r - 1) P / (r^2 B) within
    the limit."""
    moved = np.maximum(costs.moved_s[:, None], costs.moved_s[None, :])
    shared = np.ceil(np.maximum(compute_s, moved) / limit_s)
    with np.errstate(all="ignore"):  # stages without parameters, no stages, no limit
        share = limit_s * bandwidth / (2.0 * costs.parameter_bytes)
        reduced = np.ceil((1.0 + np.sqrt(1.0 - 4.0 * share)) / (2.0 * share))
    reduced = np.where((costs.parameter_bytes > 0) & (share < 0.25), reduced, 2.0)
    return np.clip(np.maximum(shared, reduced), 2, costs.level.workers + 1).astype(np.int64)


@dataclass(frozen=True)
class MemorySearch:
    """The search for stages within a time and a memory.

    It goes backwards from the last stage. For each state and number of workers from there on it
    keeps the fewest minibatches in flight: the memory of the stages before depends on that number
    and on nothing else. Raises PlanError for more than MOST_WORKERS_IN_MEMORY workers.
    """

    costs: LevelCosts
    memory: StageMemory

    def __post_init__(self) -> None:
        if self.costs.level.workers > MOST_WORKERS_IN_MEMORY:
            raise PlanError(
                f"the best plan for {self.costs.level.workers} GPUs does not fit the memory, and"
                f" another is searched for up to {MOST_WORKERS_IN_MEMORY} only: give more memory,"
                " or plan for fewer GPUs"
            )

    def stages_within(self, limit_s: float, limit_bytes: float) -> Stages | None:
        """The stages on the fewest workers, or None if none keep both limits."""
        workers, count = self.costs.level.workers, len(self.costs.states)
        quick = [
            self.costs.seconds(r) <= limit_s for r in range(1, self.costs.replicas_at_most + 1)
        ]
        fed = np.full((workers + 1, count), NEVER, dtype=np.int64)
        fed[0, -1] = 0
        steps: dict[tuple[int, int], tuple[int, int]] = {}
        for used in range(1, workers + 1):
            for r in range(1, min(used, self.costs.replicas_at_most) + 1):
                self._extend(fed, steps, used, r, quick[r - 1], limit_bytes)
            if fed[used, 0] < NEVER:
                return _followed(steps, used)
        return None

    def _extend(
        self,
        fed: Counts,
        steps: dict[tuple[int, int], tuple[int, int]],
        used: int,
        r: int,
        quick: NDArray[np.bool_],
        limit_bytes: float,
    ) -> None:
        """Puts a stage on r of `used` workers before the stages that the other workers can run."""
        ends = np.flatnonzero(fed[used - r] < NEVER)
        if not len(ends):
            return
        kept = np.maximum(-(-used // r), -(-fed[used - r, ends] // r) + 1)
        needed = kept * self.memory.per_version[:, ends] + self.memory.once[:, ends]
        flying = np.where(quick[:, ends] & (needed <= limit_bytes), r * kept, NEVER)
        choice = flying.argmin(axis=1)
        fewest = np.take_along_axis(flying, choice[:, None], axis=1)[:, 0]
        for start in np.flatnonzero(fewest < fed[used]):
            fed[used, start] = fewest[start]
            steps[used, int(start)] = (int(ends[choice[start]]), r)


def _followed(steps: dict[tuple[int, int], tuple[int, int]], used: int) -> Stages:
    stages: list[Stretch] = []
    start = 0
    while used:
        end, r = steps[used, start]
        stages.append((start, end, r))
        start, used = end, used - r
    return tuple(stages)
