"""Who wins where, and by how much: within a group and a number of GPUs, the fastest case against
each other one.

A winner is clear when the 95% interval of its lead over every rival lies above zero; the intervals
are widened for the number of rivals (Sidak). Cases of unlike environments are not compared, and a
case of which too few launches were undisturbed takes no part. How an outcome reads is in
findings.py.
"""

from dataclasses import dataclass, replace

from pytest_dnnbench.metrics import THROUGHPUT
from pytest_dnnbench.report.runs import Result
from pytest_dnnbench.report.spread import Interval, ratio
from pytest_dnnbench.report.study import CaseGroup, Study, unlike


@dataclass(frozen=True, slots=True)
class Contest:
    """The outcome on one number of GPUs.

    `lead` is the ratio of throughputs, first / second, in its interval. `clear`: no other case may
    be the fastest. `why`: what hinders a comparison, or makes it weaker.
    """

    group: CaseGroup
    gpus: int
    first: Result
    second: Result | None = None
    lead: Interval | None = None
    clear: bool = False
    why: str = ""


def contests(study: Study) -> list[Contest]:
    """The outcomes of every group and number of GPUs with a throughput, in the order of the
    groups."""
    outcomes = []
    for group in study.groups:
        for gpus in group.counts:
            entered = [result for result in group.at(gpus) if result.launches(THROUGHPUT).values]
            runners = [result for result in entered if _throughput(result) > 0]
            if runners:
                outcomes.append(_without(entered, _contest(group, gpus, runners)))
    return outcomes


def _without(entered: list[Result], contest: Contest) -> Contest:
    """The contest, after those that were measured and take no part are named: one of them may be
    the fastest, so nobody is clearly."""
    absent = [result for result in entered if result.launches(THROUGHPUT).doubt]
    if not absent:
        return contest
    names = ", ".join(sorted({result.case.framework for result in absent}))
    why = f"{names} takes no part: {absent[0].launches(THROUGHPUT).doubt}"
    whole = "; ".join(filter(None, (contest.why, why)))
    return replace(contest, clear=False, why=whole)


def _contest(group: CaseGroup, gpus: int, runners: list[Result]) -> Contest:
    first, *rivals = sorted(runners, key=_throughput, reverse=True)
    if not rivals:
        return Contest(group, gpus, first, why="nothing else was measured here")
    if facts := next(filter(None, (unlike(first, rival) for rival in rivals)), []):
        return Contest(group, gpus, first, why=f"environments differ ({', '.join(facts[:4])})")
    leads = [_lead(first, rival, len(rivals)) for rival in rivals]
    if any(lead is None for lead in leads):
        why = "an interval takes two launches or more of each case"
        return Contest(group, gpus, first, rivals[0], why=why)
    clear = all(lead.low > 1 for lead in leads if lead)
    why = ""
    if any(rival.run != first.run for rival in rivals):
        why = "measured in different sessions, whose own noise is not in the interval"
    return Contest(group, gpus, first, rivals[0], leads[0], clear, why)


def _throughput(result: Result) -> float:
    return result.value(THROUGHPUT) or 0.0


def _lead(first: Result, rival: Result, comparisons: int) -> Interval | None:
    ours, theirs = (result.launches(THROUGHPUT).undisturbed for result in (first, rival))
    return ratio(ours, theirs, THROUGHPUT, comparisons=comparisons)
