"""The bubbles that a schedule alone causes: its own order of passes, played through with the time
that each pass takes on each stage, and each message to the next. No torch here.

    rank 0   F0 F1 F2 F3 .  .  B0 B1 B2 B3 │ F0 ...      GPipe, two stages, B as long as F:
    rank 1   .  F0 F1 F2 F3 B0 B1 B2 B3 .  │ .           two of ten moments idle, 1 / (4 + 1)

There is no formula per schedule: whatever the order, a pass begins when its rank is free and the
passes that it needs are done. Batch follows batch; the last of a few is looked at, when ranks that
are done early have begun the next. Where a stage has several replicas, each on a rank of its own,
microbatch m goes to replica m mod R, and they update together. Not here: where the order and the
times come from.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pytest_dnnbench.errors import PlanError

Kind = Literal["F", "L", "B", "I", "W", "U"]
"""F forward, L loss, B whole backward; or in two: I the gradients of the inputs, W of the weights;
U the update, with the average over replicas before it."""

Transfers = Mapping[tuple[int, int], Any]
"""The time of a message by the stage that sends and the stage that receives it; what is not here
takes none. Messages from one rank to another go one after the other, beside the compute."""

_BATCHES = 4
"""Enough for the pattern of a batch to repeat: each begins with an empty pipeline."""


class Pass(NamedTuple):
    """One pass of a microbatch through a stage, or the update of a replica of it. Prints as 2F0:
    stage 2, forward, microbatch 0.

    A tuple: a long pipeline makes tens of thousands, and looks each of them up.
    """

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

    def results(self) -> tuple["Pass", ...]:
        """As what others may need it: who waits for a backward pass waits for the gradients of its
        inputs."""
        return (self, self._replace(kind="B")) if self.kind == "I" else (self,)


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
    moves = _moves(orders, seconds, transfers)
    free: list[Any] = [0] * len(orders)
    free_links: dict[tuple[int, int], Any] = {}
    ends: list[list[Any]] = [[] for _ in orders]
    for _ in range(_BATCHES):
        _play(moves, free, free_links)
        for rank, now in enumerate(free):
            ends[rank].append(now)
    return ends


class _Move(NamedTuple):
    """A pass as it is played: its rank, its time, the passes that it needs by their place among all
    moves, on this stage and on others; and the link and the time of the message that follows, where
    one does."""

    rank: int
    seconds: Any
    needs_here: list[int]
    needs_sent: list[int]
    link: tuple[int, int] | None
    sending: Any


def _moves(
    orders: Sequence[Sequence[Pass]],
    seconds: Mapping[tuple[int, str], Any],
    transfers: Transfers,
) -> list[_Move]:
    """All passes of a batch, each after those that it needs and after those that its rank makes
    before. Raises PlanError where there is no such order."""
    homes = _homes(orders)
    stages = 1 + max(homes)
    updates = _before_updates(orders, homes)
    moves: list[_Move] = []
    places: dict[Pass, int] = {}
    waiting: dict[Pass, list[int]] = {}
    coming = [deque(order) for order in orders]
    ready = deque(range(len(orders)))
    while ready:
        rank = ready.popleft()
        while coming[rank]:
            each = coming[rank][0]
            needs = [*each.needs(stages), *updates.get((rank, each), ())]
            if missing := [before for before in needs if before not in places]:
                waiting.setdefault(missing[0], []).append(rank)
                break
            here = [places[before] for before in needs if before.stage == each.stage]
            sent = [places[before] for before in needs if before.stage != each.stage]
            pair = each.stage, each.stage + (1 if each.kind == "F" else -1)
            sending = transfers.get(pair) if each.kind in ("F", "B", "I") else None
            link = None if sending is None else (rank, _home(homes[pair[1]], each.microbatch))
            moves.append(_Move(rank, seconds[each.stage, each.kind], here, sent, link, sending))
            for result in each.results():
                places[result] = len(moves) - 1
                ready.extend(waiting.pop(result, ()))
            coming[rank].popleft()
    if stuck := [str(order[0]) for order in coming if order]:
        raise PlanError(f"the passes {', '.join(stuck)} wait for each other: no such schedule")
    return moves


def _homes(orders: Sequence[Sequence[Pass]]) -> dict[int, list[int]]:
    """By stage, the ranks of its replicas."""
    homes: dict[int, list[int]] = {}
    for rank, order in enumerate(orders):
        for stage in {each.stage for each in order}:
            homes.setdefault(stage, []).append(rank)
    return homes


def _home(ranks: Sequence[int], microbatch: int) -> int:
    """The rank that has a microbatch of a stage with replicas on these."""
    return ranks[microbatch % len(ranks)]


def _before_updates(
    orders: Sequence[Sequence[Pass]], homes: Mapping[int, Sequence[int]]
) -> dict[tuple[int, Pass], list[Pass]]:
    """By rank and update, the last passes of all replicas of the stage: their mean needs them all.
    Nothing for a stage on a single rank, whose own order says it."""
    if all(len(ranks) == 1 for ranks in homes.values()):
        return {}
    last = {
        (rank, each.stage): each
        for rank, order in enumerate(orders)
        for each in order
        if each.kind != "U"
    }
    return {
        (rank, each): [last[other, each.stage] for other in homes[each.stage]]
        for rank, order in enumerate(orders)
        for each in order
        if each.kind == "U" and len(homes[each.stage]) > 1
    }


def _play(moves: Sequence[_Move], free: list[Any], free_links: dict[tuple[int, int], Any]) -> None:
    """Plays one batch through; `free` and `free_links` say since when each rank and each link is,
    before and after. The messages of a link are those of one rank, in the order of its passes."""
    done: list[Any] = []
    arrived: list[Any] = []
    for rank, seconds, needs_here, needs_sent, link, sending in moves:
        begin = free[rank]
        for place in needs_here:
            begin = max(begin, done[place])
        for place in needs_sent:
            begin = max(begin, arrived[place])
        end = free[rank] = begin + seconds
        done.append(end)
        if link is not None:
            end = free_links[link] = max(free_links.get(link, 0), end) + sending
        arrived.append(end)
