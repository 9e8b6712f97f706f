"""Where the cases of each comparison stand: the share of the fastest one's throughput that each
has, with its interval. What the first chart of a report draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from pytest_dnnbench.metrics import THROUGHPUT
from pytest_dnnbench.report.axes import devices
from pytest_dnnbench.report.runs import Result
from pytest_dnnbench.report.spread import ratio
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.report.text import cut_middle
from pytest_dnnbench.report.winners import Contest

MOST_STANDINGS = 8
"""Comparisons in the chart; the table below it has the others."""

MOST_SHARES = 32
"""Cases in the chart, unless its first comparison alone has more: they would hide each other."""


@dataclass(frozen=True, slots=True)
class ShareOfFastest:
    """One case: its throughput as a fraction of the fastest one's, in its 95% interval; without
    bounds where that takes more launches. `variant`: its number among the framework's series."""

    label: str
    framework: str
    variant: int
    middle: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Standing:
    """One comparison, the fastest case first."""

    title: str
    shares: tuple[ShareOfFastest, ...]


def standings(contests: Sequence[Contest], study: Study) -> list[Standing]:
    """The comparisons on the largest number of devices first, those on equally many in the order
    of the groups."""
    compared = [contest for contest in contests if contest.lead is not None]
    compared.sort(key=lambda contest: -contest.gpus)
    drawn = [_standing(contest, study) for contest in compared[:MOST_STANDINGS]]
    sizes = accumulate(len(standing.shares) for standing in drawn)
    fit = sum(size <= MOST_SHARES for size in sizes)
    return drawn[: max(fit, 1)]


def _standing(contest: Contest, study: Study) -> Standing:
    runners = [
        result for result in contest.group.at(contest.gpus) if (result.value(THROUGHPUT) or 0) > 0
    ]
    ordered = sorted(runners, key=lambda result: -(result.value(THROUGHPUT) or 0))
    group = contest.group
    rest = ", ".join(filter(None, (group.phase, group.setting, devices(ordered[0]))))
    title = f"{cut_middle(group.model, 18)}, {rest}"
    return Standing(title, tuple(_share(result, ordered[0], study) for result in ordered))


def _share(result: Result, fastest: Result, study: Study) -> ShareOfFastest:
    label = study.label(result)
    framework, variant = study.looks[label]
    ours, theirs = (each.launches(THROUGHPUT).undisturbed for each in (result, fastest))
    middle = (result.value(THROUGHPUT) or 0.0) / (fastest.value(THROUGHPUT) or 1.0)
    interval = None if result is fastest else ratio(ours, theirs, THROUGHPUT)
    low, high = (interval.low, interval.high) if interval else (None, None)
    return ShareOfFastest(label, framework, variant, middle, low, high)
