"""The bubbles that a schedule alone causes: its own order of passes, played through with the time
that each pass takes on each stage, and each message to the next. No torch here.

    rank 0   F0 F1 F2 F3 .  .  B0 B1 B2 B3 │ F0 ...      GPipe, two stages, B as long as F:
    rank 1   .  F0 F1 F2 F3 B0 B1 B2 B3 .  │ .           two of ten moments idle, 1 / (4 + 1)

There is no formula per schedule: whatever the order, a pass begins when its rank is free and the
passes that it needs are done. Batch follows batch; the last of a few is looked at, when ranks that
are done early have begun the next. Not here: where the order and the times come from.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pytest_dnnbench.errors import PlanError

Kind = Literal["F", "L", "B", "I", "W", "U"]
"""F forward, L loss, B whole backward; or in two: I the gradients of the inputs, W of the weights;
U the update, with the average over replicas before it."""

Transfers = Mapping[tuple[int, int], Any]
"""The time of a message by the stage that sends and the stage that receives it; what is not here
takes none. Messages from one rank to another go one after the other, beside the compute."""

_BATCHES = 4
"""Enough for the pattern of a batch to repeat: each begins with an empty pipeline."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass of a microbatch through a stage. Prints as 2F0: stage 2, forward, microbatch 0."""

    stage: int
    kind: Kind
    microbatch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.microbatch}"

    def needs(self, stages: int) -> Iterator["Pass"]:
        """The passes that come before this one, on whatever rank; of the backward pass of the next
        stage, either form."""
        stage, microbatch = self.stage, self.microbatch
        if self.kind == "F" and stage:
            yield Pass(stage - 1, "F", microbatch)
        elif self.kind in ("L", "B", "I"):
            yield Pass(stage, "F", microbatch)
            if self.kind != "L" and stage < stages - 1:
                yield Pass(stage + 1, "B", microbatch)
        elif self.kind == "W":
            yield Pass(stage, "I", microbatch)


def idle_fractions(
    orders: Sequence[Sequence[Pass]], seconds: Mapping[tuple[int, str], Any]
) -> list[Any]:
    """The fraction of a batch's time that each rank idles.

    `orders` has the passes of each rank in the order in which it makes them, for one batch;
    `seconds` the time of a pass by stage and kind, in any unit, and exact where it is. Raises
    PlanError for an order in which passes wait for each other in a circle.
    """
    ends = _ends(orders, seconds, {})
    fractions = []
    for order, batch_ends in zip(orders, ends, strict=True):
        busy = sum(seconds[each.stage, each.kind] for each in order)
        whole = batch_ends[-1] - batch_ends[-2]
        fractions.append(1 - busy / whole if whole else 0)
    return fractions


def batch_seconds(
    orders: Sequence[Sequence[Pass]],
    seconds: Mapping[tuple[int, str], Any],
    transfers: Transfers | None = None,
) -> Any:
    """The time from the end of one batch to the end of the next, on the slowest rank."""
    return max(ends[-1] - ends[-2] for ends in _ends(orders, seconds, transfers or {}))


def _ends(
    orders: Sequence[Sequence[Pass]],
    seconds: Mapping[tuple[int, str], Any],
    transfers: Transfers,
) -> list[list[Any]]:
    """When each rank ends each of several batches."""
    messages = _Messages(orders, transfers)
    free: list[Any] = [0] * len(orders)
    ends: list[list[Any]] = [[] for _ in orders]
    for _ in range(_BATCHES):
        _play(orders, seconds, messages, free)
        for rank, now in enumerate(free):
            ends[rank].append(now)
    return ends


class _Messages:
    """The links between ranks, and since when each is free."""

    def __init__(self, orders: Sequence[Sequence[Pass]], transfers: Transfers) -> None:
        self.rank_of = {each.stage: rank for rank, order in enumerate(orders) for each in order}
        self.stages = 1 + max(self.rank_of)
        self._transfers = transfers
        self._free: dict[tuple[int, int], Any] = {}

    def arrival(self, sent: Pass, end: Any) -> Any:
        """When the stage that waits for the result of a pass has it."""
        target = sent.stage + (1 if sent.kind == "F" else -1)
        pair = sent.stage, target
        if pair not in self._transfers:
            return end
        link = self.rank_of[sent.stage], self.rank_of[target]
        self._free[link] = max(self._free.get(link, 0), end) + self._transfers[pair]
        return self._free[link]


def _play(
    orders: Sequence[Sequence[Pass]],
    seconds: Mapping[tuple[int, str], Any],
    messages: _Messages,
    free: list[Any],
) -> None:
    """Plays one batch through; `free` says since when each rank is, before and after."""
    done: dict[Pass, Any] = {}
    arrived: dict[Pass, Any] = {}
    next_of = [0] * len(orders)
    while any(place < len(order) for place, order in zip(next_of, orders, strict=True)):
        moved = False
        for rank, order in enumerate(orders):
            while next_of[rank] < len(order):
                each = order[next_of[rank]]
                needed = list(each.needs(messages.stages))
                if not all(before in done for before in needed):
                    break
                moments = [
                    (done if before.stage == each.stage else arrived)[before] for before in needed
                ]
                free[rank] = max([free[rank], *moments]) + seconds[each.stage, each.kind]
                # Whoever waits for a backward pass waits for the gradients of its inputs.
                kind = "B" if each.kind == "I" else each.kind
                result = Pass(each.stage, kind, each.microbatch)
                done[each] = done[result] = free[rank]
                if kind in ("F", "B"):
                    arrived[result] = messages.arrival(result, free[rank])
                next_of[rank] += 1
                moved = True
        if not moved:
            stuck = [
                str(order[place])
                for place, order in zip(next_of, orders, strict=True)
                if place < len(order)
            ]
            raise PlanError(f"the passes {', '.join(stuck)} wait for each other: no such schedule")
