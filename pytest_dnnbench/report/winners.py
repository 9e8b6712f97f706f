"""Who wins where, and by how much: within a group and a number of GPUs, the fastest case against
each other one.

A winner is clear when the 95% interval of its lead over every rival lies above zero; the intervals
are widened for the number of rivals (Sidak). Cases of unlike environments are not compared.
"""

from dataclasses import dataclass

from pytest_dnnbench.report.runs import Result
from pytest_dnnbench.report.spread import Interval, ratio
from pytest_dnnbench.report.study import Group, Study, unlike

THROUGHPUT = "throughput"


@dataclass(frozen=True, slots=True)
class Contest:
    """The outcome on one number of GPUs.

    `lead` is the ratio of throughputs, first / second, in its interval. `clear`: nobody else may be
    the fastest. `why`: what hinders a comparison, or makes it weaker.
    """

    group: Group
    gpus: int
    first: Result
    second: Result | None = None
    lead: Interval | None = None
    clear: bool = False
    why: str = ""


def contests(study: Study) -> list[Contest]:
    """Of every group and number of GPUs with a throughput, in the order of the groups."""
    found = []
    for group in study.groups:
        for gpus in group.counts:
            runners = [result for result in group.at(gpus) if (result.value(THROUGHPUT) or 0) > 0]
            if runners:
                found.append(_contest(group, gpus, runners))
    return found


def _contest(group: Group, gpus: int, runners: list[Result]) -> Contest:
    first, *rivals = sorted(runners, key=lambda result: -(result.value(THROUGHPUT) or 0))
    if not rivals:
        return Contest(group, gpus, first, why="nothing else was measured here")
    if facts := next(filter(None, (unlike(first, rival) for rival in rivals)), []):
        return Contest(group, gpus, first, why=f"environments differ ({', '.join(facts[:4])})")
    leads = [_lead(first, rival, len(rivals)) for rival in rivals]
    if any(lead is None for lead in leads):
        return Contest(
            group, gpus, first, rivals[0], why="an interval takes two launches or more of each case"
        )
    mixed = any(rival.run != first.run for rival in rivals)
    return Contest(
        group,
        gpus,
        first,
        rivals[0],
        lead=leads[0],
        clear=all(lead.low > 1 for lead in leads if lead),
        why="measured in different sessions, whose own noise is not in the interval"
        if mixed
        else "",
    )


def _lead(first: Result, rival: Result, comparisons: int) -> Interval | None:
    ours, theirs = (result.metrics[THROUGHPUT].per_launch for result in (first, rival))
    return ratio(ours, theirs, THROUGHPUT, comparisons=comparisons)
