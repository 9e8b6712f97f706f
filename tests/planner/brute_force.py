"""Every plan of a small graph, costed by the formulas as they are written down: slow, and obviously
right.

Stages are sets of operator positions; nothing here is shared with the planner but the profile and
the levels.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise, product

from pytest_dnnbench.planner.levels import Level
from pytest_dnnbench.planner.profile import Profile

Cut = frozenset[str]
INFINITY = math.inf


@dataclass(frozen=True)
class BruteForce:
    """All plans of one profile. `free` transfers cost nothing; without `replication` every stage
    has one replica."""

    profile: Profile
    free: bool = False
    replication: bool = True
    memory_bytes: float | None = None

    @cached_property
    def cuts(self) -> list[Cut]:
        """Every set of operators that holds the source of each edge whose target it holds, and all
        or none of the operators that stay together."""
        names = [operator.id for operator in self.profile.operators]
        subsets = (
            frozenset(some) for size in range(len(names) + 1) for some in combinations(names, size)
        )
        return [
            some
            for some in subsets
            if all(a in some for a, b in self.profile.edges if b in some)
            and all(some >= {*group} or not some & {*group} for group in self.profile.together)
        ]

    def chains(
        self, start: Cut, end: Cut, most: int, cuts: Sequence[Cut] | None = None
    ) -> Iterator[tuple[Cut, ...]]:
        """All ways to go from one cut to a larger one in at most `most` stages, over `cuts` or all
        cuts."""
        if most >= 1:
            yield (start, end)
        if most >= 2:
            for between in self.cuts if cuts is None else cuts:
                if start < between < end:
                    yield from (
                        (start, *rest) for rest in self.chains(between, end, most - 1, cuts)
                    )

    def shapes(
        self, stages: int, workers: int, *, all_used: bool = False
    ) -> Iterator[tuple[int, ...]]:
        """All numbers of replicas of this many stages on the workers."""
        for shape in product(range(1, workers + 1), repeat=stages):
            allowed = self.replication or max(shape) == 1
            if allowed and (sum(shape) == workers if all_used else sum(shape) <= workers):
                yield shape

    def total(self, quantity: str, operators: Cut) -> float:
        return math.fsum(
            getattr(operator, quantity)
            for operator in self.profile.operators
            if operator.id in operators
        )

    def compute_s(self, operators: Cut) -> float:
        return self.total("forward_s", operators) + self.total("backward_s", operators)

    def crossing(self, cut: Cut) -> float:
        """Bytes of the operators before a cut that an operator after it reads, or that make the
        model's output, and of the inputs that an operator after it reads. Before the first stage
        and after the last nothing crosses."""
        profile = self.profile
        if not cut or len(cut) == len(profile.operators):
            return 0.0
        read = {a for a, b in profile.edges if a in cut and b not in cut}
        handed_on = (each.size_bytes for each in profile.inputs if {*each.users} - cut)
        returned = cut & {*profile.outputs}
        return self.total("activation_bytes", frozenset(read | returned)) + sum(handed_on)

    # The default cost model.

    def least_s(self, levels: Sequence[Level]) -> float:
        """The bottleneck of the best plan; infinity if none fits the memory (one level only)."""
        return self.pipeline_s(self.cuts[0], self.cuts[-1], levels)

    def pipeline_s(self, start: Cut, end: Cut, levels: Sequence[Level]) -> float:
        """Between two cuts: the best over all splits; the cuts at the ends are paid for
        elsewhere."""
        workers = levels[-1].workers
        times: dict[tuple[Cut, Cut, int], float] = {}
        best = INFINITY
        for chain in self.chains(start, end, workers):
            pairs = list(pairwise(chain))
            for shape in self.shapes(len(pairs), workers):
                for (a, b), r in zip(pairs, shape, strict=True):
                    if (a, b, r) not in times:
                        times[a, b, r] = self.stage_s(a, b, r, levels)
                slowest = max(times[a, b, r] for (a, b), r in zip(pairs, shape, strict=True))
                for cut, left, right in zip(chain[1:-1], shape, shape[1:], strict=False):
                    moved = 0.0 if self.free else 2 * self.crossing(cut) / levels[-1].bandwidth
                    slowest = max(slowest, moved / left, moved / right)
                if (
                    self.memory_bytes is None
                    or self.needed_bytes(chain, shape) <= self.memory_bytes
                ):
                    best = min(best, slowest)
        return best

    def stage_s(self, start: Cut, end: Cut, r: int, levels: Sequence[Level]) -> float:
        """One stage on r units: each unit a pipeline, or (with replication) all its workers data
        parallel."""
        *inner, level = levels
        weights = self.total("parameter_bytes", end - start)
        reduced = 2 * (r - 1) / r * weights / level.bandwidth
        if not inner:
            return max(self.compute_s(end - start), reduced) / r
        as_pipeline = max(self.pipeline_s(start, end, inner), reduced) / r
        if not self.replication:
            return as_pipeline
        group = math.prod(each.workers for each in inner)
        together = max(self.data_parallel_s(end - start, inner), reduced / group) / r
        return min(as_pipeline, together)

    def data_parallel_s(self, operators: Cut, levels: Sequence[Level]) -> float:
        time_s, group = self.compute_s(operators), 1
        for level in levels:
            m = level.workers
            reduced = (
                2
                * (m - 1)
                / m
                * self.total("parameter_bytes", operators)
                / (level.bandwidth * group)
            )
            time_s, group = max(time_s, reduced) / m, group * m
        return time_s

    def needed_bytes(self, chain: Sequence[Cut], shape: Sequence[int]) -> float:
        """The neediest replica, with the versions that the deadlock-free warm-up makes it keep."""
        needed, after, following = 0.0, 0, 0
        for (a, b), r in reversed(list(zip(pairwise(chain), shape, strict=True))):
            after += r
            count = math.ceil(after / r) - 1
            if following:
                count = max(count, math.ceil(following / r))
            following = r * (count + 1)
            weights, activations = (
                self.total("parameter_bytes", b - a),
                self.total("activation_bytes", b - a),
            )
            needed = max(
                needed, (count + 1) * (weights + activations + self.crossing(a)) + 2 * weights
            )
        return needed

    # PipeDream's optimizer.

    @cached_property
    def original_cuts(self) -> list[Cut]:
        """The cuts of its antichain DAG, smallest first, and the empty one: its own algorithm, step
        by step (graph/graph.py, `antichain_dag`)."""
        targets = {
            operator.id: [b for a, b in self.profile.edges if a == operator.id]
            for operator in self.profile.operators
        }
        fed = {b for _, b in self.profile.edges}
        first = next(operator.id for operator in self.profile.operators if operator.id not in fed)
        antichains = {frozenset([first])}
        waiting = [frozenset([first])]
        while waiting:
            antichain = waiting.pop()
            augmented = self._augmented(antichain)
            for old in augmented:
                for new in targets[old]:
                    if any(new in self.before(name) for name in augmented) or new in antichain:
                        continue
                    replaced = augmented - {old} | {new}
                    following = frozenset(
                        name
                        for name in replaced
                        if not any(name in self.before(other) for other in replaced)
                    )
                    if following not in antichains:
                        antichains.add(following)
                        waiting.append(following)
        cuts = {each.union(*(self.before(name) for name in each)) for each in antichains}
        return [frozenset(), *sorted(cuts, key=len)]

    def original_s(
        self,
        levels: Sequence[Level],
        start: Cut | None = None,
        end: Cut | None = None,
        *,
        all_used: bool = True,
    ) -> float:
        """The bottleneck of the best plan of the published optimizer, which uses every worker
        unless `all_used` is false."""
        first, last = start or self.original_cuts[0], end or self.original_cuts[-1]
        *inner, level = levels
        best = INFINITY
        for chain in self.chains(first, last, level.workers, self.original_cuts):
            pairs = list(pairwise(chain))
            times = [
                self.original_s(inner, a, b) if inner else self.compute_s(b - a) for a, b in pairs
            ]
            for shape in self.shapes(len(pairs), level.workers, all_used=all_used):
                best = min(best, self._original_pipeline_s(pairs, times, shape, levels))
        return best

    def _original_pipeline_s(
        self,
        pairs: list[tuple[Cut, Cut]],
        times: list[float],
        shape: Sequence[int],
        levels: Sequence[Level],
    ) -> float:
        level, slowest, used = levels[-1], 0.0, 0
        for number, ((a, b), time_s, r) in enumerate(zip(pairs, times, shape, strict=True)):
            used += r
            weights, activations = (
                self.total("parameter_bytes", b - a),
                self.total("activation_bytes", b - a),
            )
            stashed = math.ceil((level.workers - used) / r) * (weights + activations)
            if self.memory_bytes is not None and stashed > self.memory_bytes:
                return INFINITY
            below = levels[-2].workers if number == 0 and len(levels) > 1 else 1
            slowest = max(
                slowest, (time_s + 4 * (r - 1) * weights / (level.bandwidth * r * below)) / r
            )
            if number and not self.free:
                slowest = max(slowest, 2 * self.augmented(a) / (level.bandwidth * r))
                if b != self.original_cuts[-1]:
                    slowest = max(slowest, 2 * self.augmented(b) / (level.bandwidth * r))
        return slowest

    def augmented(self, cut: Cut) -> float:
        """Bytes of PipeDream's augmented antichain: the last operators, and ancestors of one that
        feed anything else."""
        last = frozenset(
            name for name in cut if not any(a == name and b in cut for a, b in self.profile.edges)
        )
        return self.total("activation_bytes", self._augmented(last))

    def _augmented(self, antichain: Cut) -> Cut:
        extra = frozenset(
            a
            for name in antichain
            for a, b in self.profile.edges
            if a in self.before(name) and b != name and b not in self.before(name)
        )
        return antichain | extra

    def before(self, name: str) -> Cut:
        """All ancestors of an operator."""
        sources = frozenset(a for a, b in self.profile.edges if b == name)
        return sources.union(*(self.before(source) for source in sources))
