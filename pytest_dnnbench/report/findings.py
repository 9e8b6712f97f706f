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


def winner_sentence(contests: Sequence[Contest], study: Study) -> str:
    """One sentence: who wins, by how much, and how sure that is."""
    decided = [contest for contest in contests if contest.lead is not None]
    if not decided:
        return ""
    if len(decided) == 1:
        return _single_answer(decided[0], study)
    clear = [contest for contest in decided if contest.clear]
    wins = Counter(study.label(contest.first) for contest in clear)
    if not wins:
        return (
            f"Nobody is clearly the fastest in any of {len(decided)} comparisons: every lead may"
            " be chance."
        )
    label, count = wins.most_common(1)[0]
    leads = [
        contest.lead.middle
        for contest in clear
        if contest.lead and study.label(contest.first) == label
    ]
    by = _percent(min(leads))
    if len(leads) > 1:
        by = f"{by} to {_percent(max(leads))}"
    open_ones = len(decided) - wins.total()
    unsure = f"; in {open_ones} nobody is clearly ahead" if open_ones else ""
    return (
        f"{label} is the fastest in {count} of {len(decided)} comparisons, by {by} over the second,"
        f" each with 95% confidence or more{unsure}."
    )


def _single_answer(contest: Contest, study: Study) -> str:
    first = study.label(contest.first)
    second = study.label(contest.second) if contest.second else "the others"
    lead = contest.lead or Interval(1.0, 1.0, 1.0)
    if not contest.clear:
        return f"Nobody is clearly the fastest: {first} leads {second} by {_span(lead)}."
    return f"{first} is the fastest, by {_span(lead)} over {second}, with 95% confidence."


def headline(contests: Sequence[Contest], study: Study) -> list[str]:
    """How often each of the other series is clearly the fastest."""
    decided = [contest for contest in contests if contest.lead is not None]
    wins = Counter(study.label(contest.first) for contest in decided if contest.clear)
    return [
        f"{label} is clearly the fastest in {count} of {len(decided)} comparisons."
        for label, count in wins.most_common(MOST_WINNERS)[1:]
    ]


def _span(lead: Interval) -> str:
    """A ratio as a lead in percent, with its interval."""
    middle, low, high = (_percent(ratio) for ratio in (lead.middle, lead.low, lead.high))
    return f"{middle} ({low} to {high})"


def _percent(ratio: float) -> str:
    """With so many digits that the sign can be seen."""
    percent = 100 * (ratio - 1)
    return f"{percent:.2f}%" if abs(percent) < 0.05 else f"{percent:,.1f}%"
