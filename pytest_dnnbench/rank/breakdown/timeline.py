"""Divides a stretch of a rank's time among the parts of a step: spans in, nanoseconds by part
and name out. Knows nothing of torch.

    thread 1   ├─ optimizer ───────────────────┤     ├─ compute ──────────────┤
                   ├ compute ┤                            ├ communication ┤
    async                 ├─ communication ────────────────────────────────────────┤
    the step   │ optimizer                     │ c.  │    │ communication │   │ c. │
                                               communication                compute

Within a lane (a thread, a stream) spans nest, and the innermost one with a part of its own
counts; what runs inside an owner counts as the owner's. Between lanes the part that comes first in
`order` counts, so communication is exposed where no lane computes. What is left is idle.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from pytest_dnnbench.step_parts import Part

Row = tuple[Part, str]
"""A part, and the name of what ran; an empty name where nothing did."""


@dataclass(frozen=True, slots=True)
class Span:
    """Something that ran from `start` until `end`, in nanoseconds of one clock.

    part    what its time counts as; None: as what it is nested in, or idle
    lane    spans of one lane nest; None: on no lane (asynchronous), nests in nothing
    owner   whether all that is nested in it counts as its part
    """

    start: int
    end: int
    part: Part | None
    name: str
    lane: int | None = 0
    owner: bool = False


@dataclass(frozen=True, slots=True)
class Divided:
    """Nanoseconds by part and name, which add up to the window, and how many spans of a name
    began in the window."""

    ns: dict[Row, int]
    calls: dict[str, int]

    def renamed(self, part: Part, other: Part) -> "Divided":
        """The same, with all of a part counted as another one."""
        ns = defaultdict[Row, int](int)
        for (each, name), value in self.ns.items():
            ns[other if each == part else each, name] += value
        return Divided(dict(ns), self.calls)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of a lane in which one span is the innermost."""

    start: int
    end: int
    part: Part
    name: str


@dataclass(frozen=True, slots=True)
class _Open:
    """A span that has begun on a lane; `part` and `owned` with what it is nested in."""

    end: int
    name: str
    part: Part
    owned: bool


def divide(spans: Iterable[Span], window: tuple[int, int], order: Sequence[Part]) -> Divided:
    """Divides the window. `order` has every part that spans have; idle comes last by itself."""
    begin, end = window
    inside = [each for each in spans if each.end > begin and each.start < end]
    pieces = [
        _Piece(each.start, each.end, each.part or "idle", each.name)
        for each in inside
        if each.lane is None
    ]
    by_lane = defaultdict[int, list[Span]](list)
    for each in inside:
        if each.lane is not None:
            by_lane[each.lane].append(each)
    for lane in by_lane.values():
        pieces += _flat(lane)
    calls = Counter(each.name for each in inside if begin <= each.start < end)
    return Divided(_swept(pieces, window, {part: rank for rank, part in enumerate(order)}), calls)


def _flat(lane: Sequence[Span]) -> list[_Piece]:
    """The lane's spans as pieces that do not overlap."""
    flat = _Flattening()
    for each in sorted(lane, key=lambda each: (each.start, -each.end)):
        flat.advance(each.start)
        flat.begin(each)
    flat.advance(None)
    return flat.pieces


@dataclass(slots=True)
class _Flattening:
    """Goes along a lane. `stack` holds what has begun and not ended, the innermost last."""

    pieces: list[_Piece] = field(default_factory=list)
    stack: list[_Open] = field(default_factory=list)
    _at: int = 0

    def advance(self, until: int | None) -> None:
        """Goes on to a moment, or to the end of all that has begun."""
        while self.stack and (until is None or self.stack[-1].end <= until):
            self._take(self.stack[-1].end)
            self.stack.pop()
        if until is not None:
            self._take(until)
            self._at = until

    def begin(self, span: Span) -> None:
        """A span begins, inside those on the stack."""
        around = self.stack[-1] if self.stack else None
        owned = around is not None and around.owned
        outer: Part = around.part if around else "idle"
        part = outer if owned else span.part or outer
        self.stack.append(_Open(span.end, span.name, part, owned or span.owner))

    def _take(self, until: int) -> None:
        if self.stack and until > self._at:
            top = self.stack[-1]
            self.pieces.append(_Piece(self._at, until, top.part, top.name))
            self._at = until


def _swept(
    pieces: Sequence[_Piece], window: tuple[int, int], rank: dict[Part, int]
) -> dict[Row, int]:
    """Goes along the window; at each moment the running piece of the first part counts, and of
    several the one that has run longest."""
    begin, end = window
    edges = [(max(each.start, begin), True, each) for each in pieces if each.end > begin]
    edges += [(min(each.end, end), False, each) for each in pieces if each.start < end]
    edges.sort(key=lambda edge: edge[0])
    total, running, at = defaultdict[Row, int](int), dict[int, _Piece](), begin
    for moment, group in groupby(edges, key=lambda edge: edge[0]):
        moment = min(moment, end)
        if moment > at:
            total[_winner(running.values(), rank)] += moment - at
            at = moment
        for _, starts, piece in group:
            if starts:
                running[id(piece)] = piece
            else:
                running.pop(id(piece), None)
    if end > at:
        total[_winner(running.values(), rank)] += end - at
    return dict(total)


def _winner(running: Iterable[_Piece], rank: dict[Part, int]) -> Row:
    first = min(
        running, key=lambda each: (rank.get(each.part, len(rank)), each.start), default=None
    )
    return ("idle", "") if first is None else (first.part, first.name)
