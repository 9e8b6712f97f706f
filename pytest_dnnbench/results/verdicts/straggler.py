"""Which rank the others wait for, from the part of a step that each rank does on its own
(rank/own_work.py).

Step times do not show it: a rank that is early waits, so every rank has the step time of the
slowest. Pure, and careful: a wrong rank sends somebody to the wrong machine. A rank is blamed only
when, in each of LEAST_LAUNCHES or more launches,

    it is the slowest, and the same rank          chance places ranks anew in every launch
    in most of its steps: its first quartile      a few late steps, or steps that vary widely, are
      lies above the third of every other           the machine's
    by LEAST_LEAD of its own work                 caches and the order of events make that much
                                                    between equal ranks
    by LEAST_SHARE of the step and LEAST_LEAD_S   less is not why a step takes long
    by about as much as in the other launches     a disturbance has another size each time: within
                                                    STEADY

It is compared with the slowest of the others, which decides how long the step would take without
it. Launches that were disturbed from outside are no evidence; nor is a case with more ranks than
cores, where the scheduler decides who waits.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_dnnbench.results.records.schema import Record

LEAST_LAUNCHES = 3
LEAST_LEAD = 0.10
LEAST_SHARE = 0.02
LEAST_LEAD_S = 0.0005
STEADY = 2.0


@dataclass(frozen=True, slots=True)
class Straggler:
    """The slow rank, and the seconds that it and the others work on their own in a step: medians
    over the launches."""

    rank: int
    own_work_s: float
    others_s: float


@dataclass(frozen=True, slots=True)
class LaunchTimes:
    """One launch: its median step, and three quartiles of each rank's own work in a step."""

    step_time_s: float
    own_work_s: Sequence[Sequence[float]]


def straggler(launches: Sequence[LaunchTimes]) -> Straggler | None:
    """The rank that is slower than all others throughout; None where there is none, or too little
    evidence."""
    if len(launches) < LEAST_LAUNCHES:
        return None
    slowest = {_slowest(launch) for launch in launches}
    if len(slowest) > 1:
        return None
    rank = slowest.pop()
    leads = [_lead_s(launch, rank) for launch in launches]
    if min(leads) <= 0 or max(leads) > STEADY * min(leads):
        return None
    return Straggler(
        rank,
        own_work_s=statistics.median(launch.own_work_s[rank][1] for launch in launches),
        others_s=statistics.median(
            quartiles[1] for launch in launches for quartiles in _others(launch, rank)
        ),
    )


def straggler_of(record: Record) -> Straggler | None:
    """As `straggler`, from a record's undisturbed launches."""
    if record.run.oversubscribed:
        return None
    return straggler(
        [
            LaunchTimes(statistics.median(launch.step_time_s), launch.own_work_s)
            for launch in record.launches
            if launch.own_work_s and not launch.conditions.disturbed
        ]
    )


def _slowest(launch: LaunchTimes) -> int:
    return max(range(len(launch.own_work_s)), key=lambda rank: launch.own_work_s[rank][1])


def _lead_s(launch: LaunchTimes, rank: int) -> float:
    """How much slower the rank is than the slowest of the others; 0 where that is within noise, or
    too little."""
    first, middle, _ = launch.own_work_s[rank]
    others = _others(launch, rank)
    lead_s = middle - max(other[1] for other in others)
    least_s = max(LEAST_LEAD * middle, LEAST_SHARE * launch.step_time_s, LEAST_LEAD_S)
    return lead_s if lead_s >= least_s and first > max(other[2] for other in others) else 0.0


def _others(launch: LaunchTimes, rank: int) -> list[Sequence[float]]:
    return [quartiles for other, quartiles in enumerate(launch.own_work_s) if other != rank]
