"""Why a case got slower: its breakdown beside an earlier one, or beside the other side's of two
that are compared.

A part of the step is named only where it grew beyond the spread of the profiled launches of both
sides. Not here: which launches are profiled (session/verdicts.py).
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from pytest_dnnbench.results.records.breakdown import MOST_OPERATORS, rounded
from pytest_dnnbench.results.records.profile_entry import (
    BreakdownEntry,
    Cause,
    OperatorEntry,
    ProfiledRank,
    WhyEntry,
)
from pytest_dnnbench.step_parts import OWN_PARTS, PARTS, Part

FEWEST = 2
"""Profiled launches of each side: fewer have no spread."""

MOST_CAUSES = 3

WORTH_NAMING = 0.05
"""A cause explains at least this fraction of the difference."""

_EXPLAINED = 0.5
"""Operators are named in place of their part where they explain this fraction of its growth."""

_MARK = "dnnbench::"

_SYNCHRONISES = "Synchronize"
"""In the names of the calls by which a host waits for its GPU (rank/breakdown/events.py)."""

_MORE_CALLS = 0.5
"""In a step: one call more in every other step is one more."""


BASELINE = ("the baseline", "the case")


def explain(
    before: BreakdownEntry, now: BreakdownEntry, names: tuple[str, str] = BASELINE
) -> WhyEntry:
    """What grew from one breakdown of a case to another. `names` are what words call the two."""
    rank = _telling_rank(before, now)
    step = _Growth.of(_steps(before, rank), _steps(now, rank))
    doubt = _doubt(before, now, step, names)
    return WhyEntry(
        rank=rank,
        baseline_s=rounded(step.before_s),
        now_s=rounded(step.now_s),
        causes=[] if doubt else _causes(before, now, rank, step),
        doubt=doubt,
    )


def unexplained(doubt: str) -> WhyEntry:
    """Where there is no second breakdown."""
    return WhyEntry(rank=0, baseline_s=0.0, now_s=0.0, doubt=doubt)


def why_lines(why: WhyEntry | None, where: str = "") -> list[str]:
    """The explanation in words; none without one. `where` names the side that is slower, as in
    "on side B"; a baseline needs none."""
    if why is None:
        return []
    if why.doubt:
        return [f"why: {why.doubt}"]
    more = f"{_ms(why.now_s - why.baseline_s)} more{f' {where}' if where else ''}"
    more += f" ({_ms(why.baseline_s)} to {_ms(why.now_s)})"
    head = f"why: a profiled step of rank {why.rank} takes {more}"
    if not why.causes:
        return [f"{head}; no part of it stands out from the spread of the launches"]
    return [head, *(f"  {_line(cause)}" for cause in why.causes)]


def _line(cause: Cause) -> str:
    figures = f"{_ms(cause.baseline_s)} to {_ms(cause.now_s)}"
    before, now = cause.baseline_calls, cause.now_calls
    if before is not None and now is not None and before != now:
        figures += f", {before:g} to {now:g} calls"
    name = f" in {cause.name}" if cause.name else ""
    return (
        f"{PARTS[cause.part]}{name}: {_ms(cause.now_s - cause.baseline_s)} more ({figures}),"
        f" {cause.share:.0%} of the difference"
    )


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


@dataclass(frozen=True, slots=True)
class _Growth:
    """Seconds of something in a step, in the profiled launches of both sides: the medians, and how
    far the launches of one side are apart."""

    before_s: float
    now_s: float
    spread_s: float
    is_apart: bool

    @classmethod
    def of(cls, before: Sequence[float], now: Sequence[float]) -> "_Growth":
        """From the launches."""
        return cls(
            before_s=statistics.median(before),
            now_s=statistics.median(now),
            spread_s=max(max(each) - min(each) for each in (before, now)),
            is_apart=min(now) > max(before),
        )

    @property
    def seconds(self) -> float:
        """How much more it is now."""
        return self.now_s - self.before_s

    @property
    def stands_out(self) -> bool:
        """Whether it grew beyond the spread."""
        return self.is_apart and self.seconds > self.spread_s


def _telling_rank(before: BreakdownEntry, now: BreakdownEntry) -> int:
    """The rank whose own work grew most; the others wait for it. Where no rank's did, the one that
    waits least: it is the last to come, so its waiting is the exchange itself."""
    ranks = range(min(len(before.launches[0]), len(now.launches[0])))
    growths = {rank: _Growth.of(_own(before, rank), _own(now, rank)) for rank in ranks}
    grown = [rank for rank in ranks if growths[rank].stands_out]
    if grown:
        return max(grown, key=lambda rank: growths[rank].seconds)
    return max(ranks, key=lambda rank: statistics.median(_own(now, rank)))


def _doubt(
    before: BreakdownEntry, now: BreakdownEntry, step: _Growth, names: tuple[str, str]
) -> str:
    """Why nothing can be said; empty where something can."""
    for name, entry in zip(names, (before, now), strict=True):
        if len(entry.launches) < FEWEST:
            return f"{name} has one profiled launch, which shows no spread: {_more_of(entry)}"
    if len(before.launches[0]) != len(now.launches[0]):
        return f"{names[0]}'s profile has another number of ranks"
    if not step.stands_out:
        return (
            f"the profiled steps do not show the difference: {_ms(step.before_s)} ({names[0]}) and"
            f" {_ms(step.now_s)} ({names[1]}), in launches up to {_ms(step.spread_s)} apart"
        )
    return ""


def _more_of(entry: BreakdownEntry) -> str:
    """How to have as many profiled launches as are needed."""
    if not entry.left_out:
        return f"profile at least {FEWEST} launches"
    was = "launch was" if entry.left_out == 1 else "launches were"
    return (
        f"{entry.left_out} more {was} disturbed and left out; profile more launches, or on an idle"
        " machine"
    )


def _causes(before: BreakdownEntry, now: BreakdownEntry, rank: int, step: _Growth) -> list[Cause]:
    """What grew most, the largest first."""
    least_s = WORTH_NAMING * step.seconds
    causes: list[Cause] = []
    for part in PARTS:
        whole = _Growth.of(_of_part(before, rank, part), _of_part(now, rank, part))
        if not whole.stands_out or whole.seconds < least_s:
            continue
        operators = [
            cause
            for cause in _operators(before, now, rank, part, step)
            if cause.now_s - cause.baseline_s >= least_s
        ]
        explained_s = sum(cause.now_s - cause.baseline_s for cause in operators)
        if explained_s < _EXPLAINED * whole.seconds:
            operators = [_cause(part, "", whole, step)]
        causes += operators
    causes.sort(key=lambda cause: cause.baseline_s - cause.now_s)
    return [_with_wait(before, now, rank, cause) for cause in causes[:MOST_CAUSES]]


def _with_wait(before: BreakdownEntry, now: BreakdownEntry, rank: int, cause: Cause) -> Cause:
    """A GPU that is idle longer, while the host waits for it more often than before, has lost what
    the host would have issued meanwhile: the wait is named. Other causes are as they are."""
    if cause.part != "idle" or cause.name:
        return cause
    calls_before, calls_now = (_synchronisations(entry, rank) for entry in (before, now))
    growths = {name: calls - calls_before.get(name, 0.0) for name, calls in calls_now.items()}
    name = max(growths, key=lambda each: growths[each], default="")
    if not name or growths[name] < _MORE_CALLS:
        return cause
    calls = {"baseline_calls": calls_before.get(name, 0.0), "now_calls": calls_now[name]}
    return msgspec.structs.replace(cause, name=name, **calls)


def _synchronisations(entry: BreakdownEntry, rank: int) -> dict[str, float]:
    """The calls in a step by which the host waits for its GPU."""
    return {
        row.name: row.calls[rank]
        for row in entry.operators
        if row.part == "idle" and _SYNCHRONISES in row.name
    }


def _operators(
    before: BreakdownEntry, now: BreakdownEntry, rank: int, part: Part, step: _Growth
) -> Iterable[Cause]:
    """The operators of a part that stand out."""
    earlier = {row.name: row for row in before.operators if row.part == part}
    for row in now.operators:
        if row.part != part:
            continue
        before_row = earlier.get(row.name)
        before_s = _launches(before_row, rank) if before_row else [_left_out(before, rank)]
        growth = _Growth.of(before_s, _launches(row, rank))
        if growth.stands_out:
            calls = (before_row.calls[rank] if before_row else 0.0, row.calls[rank])
            yield _cause(part, _name(row.name), growth, step, calls)


def _cause(
    part: Part,
    name: str,
    growth: _Growth,
    step: _Growth,
    calls: tuple[float | None, float | None] = (None, None),
) -> Cause:
    return Cause(
        part=part,
        name=name,
        baseline_s=rounded(growth.before_s),
        now_s=rounded(growth.now_s),
        baseline_calls=calls[0],
        now_calls=calls[1],
        share=rounded(growth.seconds / step.seconds),
    )


def _name(operator: str) -> str:
    """An operator for people: our own marks say no more than their part, or what comes after it."""
    if operator.startswith(_MARK):
        return operator.partition(": ")[2]
    return operator


def _left_out(entry: BreakdownEntry, rank: int) -> float:
    """What an operator that an entry does not list may have taken at most: no more than the least
    of those listed; nothing where all are."""
    if len(entry.operators) < MOST_OPERATORS:
        return 0.0
    return min((statistics.median(_launches(row, rank)) for row in entry.operators), default=0.0)


def _launches(row: OperatorEntry, rank: int) -> list[float]:
    return [ranks[rank] for ranks in row.self_s]


def _ranks(entry: BreakdownEntry, rank: int) -> list[ProfiledRank]:
    return [ranks[rank] for ranks in entry.launches]


def _steps(entry: BreakdownEntry, rank: int) -> list[float]:
    return [each.step_time_s for each in _ranks(entry, rank)]


def _of_part(entry: BreakdownEntry, rank: int, part: Part) -> list[float]:
    return [each.parts_s.get(part, 0.0) for each in _ranks(entry, rank)]


def _own(entry: BreakdownEntry, rank: int) -> list[float]:
    return [sum(each.parts_s.get(part, 0.0) for part in OWN_PARTS) for each in _ranks(entry, rank)]
