"""What each rank of a pipeline does, in which order and with which weights: data, not behaviour. No
torch here.

A minibatch b goes to replica b mod R of a stage with R replicas. A replica runs w forwards to warm
up, then one forward and one backward in turn (1F1B), then the backwards that are left. Two stages,
four minibatches, `pipedream`; F2@1 is the forward of minibatch 2 with version 1 of the weights, B2
its backward, U3 the update to version 3:

    stage 0   F0@0 F1@0 B0 U1 F2@1 B1 U2 F3@2 B2 U3 B3 U4
    stage 1   F0@0 B0 U1 F1@1 B1 U2 F2@2 B2 U3 F3@3 B3 U4

Sources: PipeDream, Narayanan et al., SOSP 2019, sections 3.2 and 3.3 (1F1B, weight stashing,
vertical sync); PipeDream-2BW and PipeDream-Flush, Narayanan et al., ICML 2021, sections 3.1 and
3.2. How long anything takes is not known here (predict.py), nor what a forward is (the rank side).
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.warmup import warmup_counts

VARIANTS = ("pipedream", "pipedream-2bw", "pipedream-flush")


@dataclass(frozen=True, slots=True)
class Forward:
    """The forward pass of a minibatch with a version of the weights; versions count from 0 at the
    run's start."""

    minibatch: int
    version: int

    def __str__(self) -> str:
        return f"F{self.minibatch}@{self.version}"


@dataclass(frozen=True, slots=True)
class Backward:
    """The backward pass of a minibatch, with the weights of its forward pass."""

    minibatch: int

    def __str__(self) -> str:
        return f"B{self.minibatch}"


@dataclass(frozen=True, slots=True)
class Update:
    """The step from the newest weights to `version`, by the mean gradient of `minibatches` over all
    replicas.

    Versions before `oldest` are not needed after it.
    """

    version: int
    minibatches: int
    oldest: int

    def __str__(self) -> str:
        return f"U{self.version}"


Action = Forward | Backward | Update


@dataclass(frozen=True, slots=True)
class Layout:
    """Ranks in stages: `replicas[s]` of them run stage s; ranks are numbered stage by stage."""

    replicas: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.replicas or min(self.replicas) < 1:
            raise PlanError(
                f"replicas {self.replicas}: give every stage at least one, for instance 2-1"
            )

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return sum(self.replicas)

    @property
    def last(self) -> int:
        """The number of the last stage."""
        return len(self.replicas) - 1

    def rank(self, stage: int, replica: int) -> int:
        """The rank of a stage's replica."""
        return sum(self.replicas[:stage]) + replica

    def place(self, rank: int) -> tuple[int, int]:
        """Stage and replica of a rank."""
        replica = rank
        for stage, replicas in enumerate(self.replicas):
            if replica < replicas:
                return stage, replica
            replica -= replicas
        raise PlanError(
            f"a pipeline {self} has {self.world_size} ranks, but this is rank {rank}: start as many"
        )

    def route(self, stage: int, minibatch: int) -> int:
        """The rank that a minibatch meets at a stage."""
        return self.rank(stage, minibatch % self.replicas[stage])

    def links(self) -> list[tuple[int, int]]:
        """The pairs of ranks, in adjoining stages, that have a minibatch in common."""
        pairs = {
            (self.route(stage, minibatch), self.route(stage + 1, minibatch))
            for stage in range(self.last)
            for minibatch in range(math.lcm(*self.replicas[stage : stage + 2]))
        }
        return sorted(pairs)

    def __str__(self) -> str:
        return "-".join(map(str, self.replicas))


def stages_in(text: str) -> tuple[int, ...]:
    """The numbers in "3" (so many stages) or "2-1" (replicas of each). Raises PlanError for any
    other text."""
    parts = text.split("-")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise PlanError(
            f"stages {text!r}: write a number of stages, or replicas of each as in 2-1, or auto"
        )
    return tuple(map(int, parts))


def layout_of(text: str, ranks: int) -> Layout:
    """The layout that "3" (so many stages, evenly replicated) or "2-1" (replicas of each stage)
    means on `ranks`.

    Raises PlanError when it does not fit the number of ranks.
    """
    numbers = stages_in(text)
    if len(numbers) == 1:
        (stages,) = numbers
        if ranks % stages:
            raise PlanError(
                f"{ranks} ranks do not divide into {stages} stages: name replicas, for instance 2-1"
            )
        return Layout((ranks // stages,) * stages)
    layout = Layout(numbers)
    if layout.world_size != ranks:
        raise PlanError(
            f"stages {text} take {layout.world_size} ranks, not {ranks}: change one of them"
        )
    return layout


@dataclass(frozen=True, slots=True)
class Schedule:
    """The rule that a pipeline runs by; `actions` spells it out for a rank.

    `microbatches` is how many minibatches one update of 2BW and Flush averages (there they are
    called microbatches); plain `pipedream` averages one per replica. `vertical_sync` makes every
    stage use the weights that stem from the same minibatches as those that the minibatch met at the
    first stage.
    """

    variant: str
    layout: Layout
    microbatches: int = 1
    vertical_sync: bool = False
    warmup: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise PlanError(
                f"variant {self.variant!r} is unknown: choose from {', '.join(VARIANTS)}"
            )
        object.__setattr__(self, "warmup", warmup_counts(self.layout.replicas))
        if self.vertical_sync and self.variant != "pipedream":
            raise PlanError(
                f"{self.variant} has one version on all stages already: leave vertical sync out"
            )
        if self.variant != "pipedream":
            self._check_microbatches()

    def _check_microbatches(self) -> None:
        shared = math.lcm(*self.layout.replicas)
        if self.microbatches < 1 or self.microbatches % shared:
            raise PlanError(
                f"{self.microbatches} microbatches do not divide over replicas {self.layout}:"
                f" give a multiple of {shared}"
            )
        least = self.most_in_flight
        if self.variant == "pipedream-2bw" and self.microbatches < least:
            raise PlanError(
                f"2BW on {self.layout} needs at least {least} microbatches, not {self.microbatches}:"
                " with fewer, more than two versions would be in use"
            )

    @property
    def most_in_flight(self) -> int:
        """The most minibatches that the replicas of a stage start before the first comes back."""
        return _most_in_flight(self.layout)

    def update_size(self, stage: int) -> int:
        """The minibatches that one update of a stage averages, over its replicas."""
        return self.layout.replicas[stage] if self.variant == "pipedream" else self.microbatches

    def version(self, stage: int, minibatch: int) -> int:
        """The version of a stage's weights that a minibatch meets, forward and backward, from 0 at
        the run's start."""
        replicas = self.layout.replicas
        if self.variant == "pipedream-flush":
            return minibatch // self.microbatches
        if self.variant == "pipedream-2bw":
            return max(minibatch // self.microbatches - 1, 0)
        if self.vertical_sync:
            absorbed = max(minibatch // replicas[0] - self.warmup[0], 0) * replicas[0]
            return absorbed // replicas[stage]
        return max(minibatch // replicas[stage] - self.warmup[stage], 0)

    def actions(self, rank: int, minibatches: int) -> Iterator[Action]:
        """What a rank does in a run of so many minibatches of the whole pipeline, drain
        included."""
        stage, replica = self.layout.place(rank)
        replicas, size, done = self.layout.replicas[stage], self.update_size(stage), 0
        mine = range(replica, minibatches, replicas)
        for action in self._passes(stage, mine):
            yield action
            if isinstance(action, Backward):
                following = action.minibatch + replicas
                if following >= minibatches or following // size > action.minibatch // size:
                    done += 1
                    yield self._update(stage, done, minibatches, following)
        if done < -(
            -minibatches // size
        ):  # the last update is made by other replicas' minibatches alone
            yield self._update(stage, done + 1, minibatches, minibatches)

    def _passes(self, stage: int, mine: range) -> Iterator[Action]:
        if self.variant == "pipedream-flush":
            size = self.microbatches // self.layout.replicas[stage]
            for start in range(0, len(mine), size):
                yield from self._one_forward_one_backward(stage, mine[start : start + size])
        else:
            yield from self._one_forward_one_backward(stage, mine)

    def _one_forward_one_backward(self, stage: int, minibatches: Iterable[int]) -> Iterator[Action]:
        to_go, to_return = iter(minibatches), iter(minibatches)
        for minibatch in islice(to_go, self.warmup[stage]):
            yield Forward(minibatch, self.version(stage, minibatch))
        for minibatch in to_go:
            yield Forward(minibatch, self.version(stage, minibatch))
            yield Backward(next(to_return))
        yield from map(Backward, to_return)

    def _update(self, stage: int, version: int, minibatches: int, following: int) -> Update:
        size = self.update_size(stage)
        averaged = min(minibatches - (version - 1) * size, size)
        oldest = self.version(stage, following) if following < minibatches else version
        return Update(version, averaged, oldest)

    def ideal_bubble(self) -> float:
        """The share of time that a rank idles when all passes take alike: (n-1)/(m+n-1) with
        flushes, else 0."""
        if self.variant != "pipedream-flush":
            return 0.0
        return self.layout.last / (self.microbatches / max(self.layout.replicas) + self.layout.last)

    def versions_kept(self, stage: int) -> int:
        """The most versions of its weights that a replica of a stage holds at a time, in a long
        run."""
        if self.variant == "pipedream-flush":
            return 1
        if self.variant == "pipedream-2bw":
            return 2
        newest_after = range(1, 4 * self.layout.world_size + 4)
        replicas = self.layout.replicas[stage]
        return 1 + max(count - self.version(stage, count * replicas) for count in newest_after)


def default_microbatches(layout: Layout) -> int:
    """Microbatches per update unless told: one per rank, or more where the replicas and 2BW ask for
    it."""
    shared = math.lcm(*layout.replicas)
    return -(-max(layout.world_size, _most_in_flight(layout)) // shared) * shared


def _most_in_flight(layout: Layout) -> int:
    """The most minibatches that the replicas of a stage start before the first comes back."""
    return max(
        replicas * warmup
        for replicas, warmup in zip(layout.replicas, warmup_counts(layout.replicas), strict=True)
    )
