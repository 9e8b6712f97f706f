"""Which rank the others wait for, told by the part of a step that each rank does on its own (rank/own_work.py).

Not by its step time, which is every rank's: whoever is early waits. Pure, and careful: a wrong name sends somebody to
the wrong machine, so a rank is named only when

    it is the slowest in every launch               ranks are placed anew in each, and so is chance
    by at least LEAST_LEAD of its own work          what caches and the order of events make of alike ranks
    and by at least LEAST_SHARE of the step time    otherwise it is not why the step takes long
    by much the same each time, within STEADY       a disturbance is of another size each time, a slow rank is not

and it is held against the slowest of the others, which is what the step would take without it. Launches that were
disturbed from outside are no evidence; nor is a case with more ranks than cores, where the scheduler decides who waits.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LEAST_LAUNCHES = 2
LEAST_LEAD = 0.10
LEAST_SHARE = 0.02
STEADY = 2.0


@dataclass(frozen=True, slots=True)
class Straggler:
    """The slow rank, what it does on its own in a step, and what the others do: each a median over the launches."""

    rank: int
    own_work_s: float
    others_s: float


@dataclass(frozen=True, slots=True)
class LaunchTimes:
    """Of one launch: the median step, and the median of each rank's own work in it."""

    step_time_s: float
    own_work_s: Sequence[float]


def straggler(launches: Sequence[LaunchTimes]) -> Straggler | None:
    """The rank that is consistently slower than all others; None where there is none or it cannot be told."""
    if len(launches) < LEAST_LAUNCHES or any(len(one.own_work_s) < 2 for one in launches):
        return None
    slowest = {max(range(len(one.own_work_s)), key=one.own_work_s.__getitem__) for one in launches}
    if len(slowest) > 1:
        return None
    rank = slowest.pop()
    leads = [_lead(one, rank) for one in launches]
    if None in leads:
        return None
    known = [lead for lead in leads if lead is not None]
    if max(known) > STEADY * min(known):
        return None
    return Straggler(
        rank,
        own_work_s=statistics.median(one.own_work_s[rank] for one in launches),
        others_s=statistics.median(statistics.median(_others(one, rank)) for one in launches),
    )


def straggler_of(record: Mapping[str, Any]) -> Straggler | None:
    """As `straggler`, of a record's undisturbed launches."""
    if record["case"].get("oversubscribed"):
        return None
    return straggler(
        [
            LaunchTimes(statistics.median(launch["step_time_s"]), launch["own_work_s"])
            for launch in record.get("launches", ())
            if launch.get("own_work_s") and launch.get("step_time_s") and not launch.get("disturbed")
        ]
    )


def _lead(launch: LaunchTimes, rank: int) -> float | None:
    """By how much the rank is slower than the slowest of the others; None where that is too little to matter."""
    own = launch.own_work_s[rank]
    lead = own - max(_others(launch, rank))
    return lead if lead >= LEAST_LEAD * own and lead >= LEAST_SHARE * launch.step_time_s else None


def _others(launch: LaunchTimes, rank: int) -> list[float]:
    return [own for other, own in enumerate(launch.own_work_s) if other != rank]
