"""Findings as sentences: who is the fastest, by how much, and how often."""

from collections import Counter
from collections.abc import Sequence

from pytest_dnnbench.report.spread import Interval
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.report.winners import Contest

MOST_WINNERS = 8
"""Series whose wins the headline counts."""


def finding(contest: Contest, study: Study) -> str:
    """Which case is ahead and by how much, or why that cannot be decided."""
    if contest.lead is None or contest.second is None:
        return f"not decided: {contest.why}"
    first, second = study.label(contest.first), study.label(contest.second)
    return f"{first} ahead of {second} by {_span(contest.lead)}"


def headline(contests: Sequence[Contest], study: Study) -> list[str]:
    """How often each series is clearly the fastest, and how often no case is."""
    decided = [contest for contest in contests if contest.lead is not None]
    wins = Counter(study.label(contest.first) for contest in decided if contest.clear)
    lines = [
        f"{label} is clearly the fastest in {count} of {len(decided)} comparisons."
        for label, count in wins.most_common(MOST_WINNERS)
    ]
    if unclear := len(decided) - wins.total():
        lines.append(f"No clear winner in {unclear} of {len(decided)}.")
    return lines


def _span(lead: Interval) -> str:
    """A ratio as a lead in percent, with its interval."""
    middle, low, high = (_percent(ratio) for ratio in (lead.middle, lead.low, lead.high))
    return f"{middle} ({low} to {high})"


def _percent(ratio: float) -> str:
    """With so many digits that the sign can be seen."""
    percent = 100 * (ratio - 1)
    return f"{percent:.2f}%" if abs(percent) < 0.05 else f"{percent:,.1f}%"
