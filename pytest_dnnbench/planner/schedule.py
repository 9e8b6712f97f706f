"""What each rank of a pipeline does, in which order and with which weights: data, not behaviour. No
torch here.

Minibatch b goes to replica b mod R of a stage with R replicas. A replica runs w forwards to warm
up, then one forward and one backward in turn (1F1B), then the backwards that are left. Two stages,
four minibatches, `pipedream`; F2@1 is the forward of minibatch 2 with version 1 of the weights, B2
its backward, U3 the update to version 3:

    stage 0   F0@0 F1@0 B0 U1 F2@1 B1 U2 F3@2 B2 U3 B3 U4
    stage 1   F0@0 B0 U1 F1@1 B1 U2 F2@2 B2 U3 F3@3 B3 U4

Sources: PipeDream, Narayanan et al., SOSP 2019, sections 3.2 and 3.3 (1F1B, weight stashing,
vertical sync); PipeDream-2BW and PipeDream-Flush, Narayanan et al., ICML 2021, sections 3.1 and
3.2. Not here: which rank runs which stage (layout.py), how long anything takes (predict.py), what a
forward is (the rank side).
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.in_flight import warmup_counts
from pytest_dnnbench.planner.layout import Layout

VARIANTS = ("pipedream", "pipedream-2bw", "pipedream-flush")


@dataclass(frozen=True, slots=True)
class Forward:
    """The forward pass of a minibatch with a version of the weights. Versions count from 0 at the
    start of the run."""

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
    """The update of the newest weights to `version`, by the mean gradient of `minibatches`
    minibatches over all replicas. Versions before `oldest` are not needed after it."""

    version: int
    minibatches: int
    oldest: int

    def __str__(self) -> str:
        return f"U{self.version}"


Action = Forward | Backward | Update


@dataclass(frozen=True, slots=True)
class Schedule:
    """The rule of a pipeline's run; `actions` spells it out for a rank.

    variant          one of VARIANTS
    microbatches     minibatches that one update of 2BW and Flush averages (there they are called
                     microbatches); an update of `pipedream` averages one per replica
    vertical_sync    lets every stage use weights made of the same minibatches as the weights that
                     the minibatch met at the first stage
    warmup           per stage, the forwards of a replica before its first backward

    Raises PlanError for an unknown variant, and for microbatches or vertical sync that the variant
    cannot have.
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
        # The only way to set a derived field of a frozen dataclass.
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
                f"2BW on {self.layout} needs at least {counted(least, 'microbatch')}, not"
                f" {self.microbatches}: with fewer, more than two versions would be in use"
            )

    @property
    def most_in_flight(self) -> int:
        """The most minibatches that the replicas of a stage start before the first comes back."""
        return _most_in_flight(self.layout)

    def update_size(self, stage: int) -> int:
        """The minibatches that one update of a stage averages, over its replicas."""
        return self.layout.replicas[stage] if self.variant == "pipedream" else self.microbatches

    def version(self, stage: int, minibatch: int) -> int:
        """The version of a stage's weights that a minibatch meets, forward and backward, counted
        from 0 at the start of the run."""
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
        """What a rank does in a run of `minibatches` minibatches of the whole pipeline, the drain
        included.

        Update u of a stage averages minibatches (u - 1) * size .. u * size - 1 over all replicas,
        so a replica makes it once its own part of them is done. Three replicas, size 6:

            minibatch    0  1  2  3  4  5      6  7  8  9 10 11
            replica 0    B        B        U1  B        B        U2
            replica 1       B        B     U1     B        B     U2
            replica 2          B        B  U1        B        B  U2
        """
        stage, replica = self.layout.place(rank)
        replicas, size, updates = self.layout.replicas[stage], self.update_size(stage), 0
        own_minibatches = range(replica, minibatches, replicas)
        for action in self._passes(stage, own_minibatches):
            yield action
            if isinstance(action, Backward):
                # Backwards come in order: the replica's next one is `replicas` further on. Where
                # that lies in a later update, or past the end, this update is complete here.
                following = action.minibatch + replicas
                if following >= minibatches or following // size > action.minibatch // size:
                    updates += 1
                    yield self._update(stage, updates, minibatches, following)
        # A short last update may have no minibatch of this replica. The replica takes part all the
        # same, without a gradient: the mean over the replicas is a collective, and all of them need
        # the new weights.
        if updates < math.ceil(minibatches / size):
            yield self._update(stage, updates + 1, minibatches, minibatches)

    def _passes(self, stage: int, own_minibatches: range) -> Iterator[Action]:
        if self.variant == "pipedream-flush":
            # Each batch drains before the next begins: 1F1B batch by batch.
            size = self.microbatches // self.layout.replicas[stage]
            for start in range(0, len(own_minibatches), size):
                yield from self._one_forward_one_backward(
                    stage, own_minibatches[start : start + size]
                )
        else:
            yield from self._one_forward_one_backward(stage, own_minibatches)

    def _one_forward_one_backward(self, stage: int, minibatches: Iterable[int]) -> Iterator[Action]:
        to_go, to_return = iter(minibatches), iter(minibatches)
        for minibatch in islice(to_go, self.warmup[stage]):
            yield Forward(minibatch, self.version(stage, minibatch))
        for minibatch in to_go:
            yield Forward(minibatch, self.version(stage, minibatch))
            yield Backward(next(to_return))
        yield from map(Backward, to_return)

    def _update(self, stage: int, version: int, minibatches: int, following: int) -> Update:
        """`following` is the replica's next minibatch: older versions than its own are not needed
        again."""
        size = self.update_size(stage)
        averaged = min(minibatches - (version - 1) * size, size)
        oldest = self.version(stage, following) if following < minibatches else version
        return Update(version, averaged, oldest)

    def ideal_bubble(self) -> float:
        """The fraction of the time that a rank idles when all passes take equally long:
        (n - 1) / (m + n - 1) with flushes, else 0."""
        if self.variant != "pipedream-flush":
            return 0.0
        return self.layout.last / (self.microbatches / max(self.layout.replicas) + self.layout.last)


def default_microbatches(layout: Layout) -> int:
    """Microbatches per update unless the user asks for others: one per rank, or more where the
    replicas and 2BW need more."""
    shared = math.lcm(*layout.replicas)
    return math.ceil(max(layout.world_size, _most_in_flight(layout)) / shared) * shared


def _most_in_flight(layout: Layout) -> int:
    return max(
        replicas * warmup
        for replicas, warmup in zip(layout.replicas, warmup_counts(layout.replicas), strict=True)
    )
