"""A search in sentences: what it does, what each session said, and the last one."""

from pytest_dnnbench.bisection.comparing import Sides
from pytest_dnnbench.bisection.kept_search import Search
from pytest_dnnbench.bisection.search import Ending, NoDifference, SearchProgress
from pytest_dnnbench.counted import counted
from pytest_dnnbench.metrics import THROUGHPUT, metric_row
from pytest_dnnbench.results.statistics.change_search import Candidate
from pytest_dnnbench.results.statistics.paired import PairDecision

_SUREST = 0.999
"""No search is said to be surer: so far out, the probability rests on what the model assumes."""

_MOST_NAMES = 5


def about_line(search: Search, sides: Sides) -> str:
    """What is searched."""
    between = len(search.places) - 2
    return (
        f"good {sides.title(search.places[0])}, bad {sides.title(search.places[-1])},"
        f" {counted(between, sides.noun)} between them"
    )


def progress_line(search: Search, progress: SearchProgress, sides: Sides, *, first: bool) -> str:
    """What one session said."""
    a, b = (sides.label(search.places[place]) for place in (progress.earlier, progress.later))
    if progress.skipped is not None:
        return f"skipped {sides.label(progress.skipped.place)}: {progress.skipped.why}"
    assert progress.pairs is not None
    compared = f"{_compared(search.metric, progress.pairs, a, b)} ({_pairs(progress.pairs)})"
    if first and search.others:
        count, total = len(search.cases), len(search.cases) + len(search.others)
        compared += (
            f" in {count} of {counted(total, 'case')}, which alone are launched from here on"
        )
    return f"{compared}; {counted(progress.left, sides.noun)} left"


def no_difference_lines(search: Search, answer: NoDifference, sides: Sides) -> list[str]:
    """Good and bad are alike."""
    title = metric_row(search.metric).title
    lines = [
        f"no difference in {title} between {sides.title(search.places[0])} and"
        f" {sides.title(search.places[-1])}: there is nothing to search for"
    ]
    for case, each in answer.judged.items():
        low, high = each.interval
        lines.append(
            f"  {case}: {each.change:+.1%}, 95% interval {low:+.1%} to {high:+.1%}; a change of"
            f" {each.detectable:.1%} would have been seen in {counted(each.pairs, 'pair')}"
        )
    return [
        *lines,
        "to see a smaller change, add --launches with more than"
        f" {max((each.pairs for each in answer.judged.values()), default=search.rounds)}",
    ]


def ending_lines(search: Search, ending: Ending, sides: Sides) -> list[str]:
    """The answer, and what else is to be known; the answer comes last."""
    names = _names(search, ending.best, sides)
    first = _first(search.metric, ending.ends, sides.noun)
    sure = _sure(ending.best.probability)
    lines = _skipped_lines(search, ending.best, sides)
    if not ending.settled:
        shown = [
            f"{_names(search, candidate, sides)} ({candidate.probability:.0%})"
            for candidate in sorted(ending.candidates, key=lambda each: -each.probability)[
                :_MOST_NAMES
            ]
            if candidate.probability >= search.error / 2
        ]
        return [
            *lines,
            f"not settled after {counted(len(search.comparisons), 'session')}: the {first} is"
            f" one of {', '.join(shown)}",
        ]
    direct = ending.direct or ending.ends
    if ending.is_part:
        lines.append(
            f"the whole difference between good and bad is {_size(ending.ends)}: part of it came"
            " with others; search between this one and bad, and between good and the one before"
        )
    lines += _why_lines(search, ending.best)
    low, high = sorted(map(abs, direct.interval))
    between = (
        f"{100 * low:.1f} to {high:.1%}"
        if direct.interval[0] * direct.interval[1] > 0
        else (f"{direct.interval[0]:+.1%} to {direct.interval[1]:+.1%}")
    )
    return [
        *lines,
        f"the {first} is {names} ({sure} sure): {_signed(search.metric, direct)}, {between}",
    ]


def _names(search: Search, candidate: Candidate, sides: Sides) -> str:
    """The places that a candidate may be, the one that was measured last."""
    places = [search.places[place] for place in range(candidate.before + 1, candidate.at + 1)]
    if len(places) == 1:
        return sides.title(places[0])
    shown = [sides.label(place) for place in places[-_MOST_NAMES:]]
    more = f" and {len(places) - len(shown)} more" if len(places) > len(shown) else ""
    return f"one of {', '.join(shown)}{more}"


def _skipped_lines(search: Search, candidate: Candidate, sides: Sides) -> list[str]:
    return [
        f"{sides.label(search.places[place])} could not be measured:"
        f" {search.unmeasurable.get(place, '')}"
        for place in range(candidate.before + 1, candidate.at)
    ]


def _why_lines(search: Search, candidate: Candidate) -> list[str]:
    """What the latest direct comparison said of why one side is slower."""
    why = next(
        (
            each.why
            for each in reversed(search.comparisons)
            if (each.earlier, each.later) == (candidate.before, candidate.at)
        ),
        {},
    )
    if len(why) == 1:
        return next(iter(why.values()))
    return [line for case, (head, *causes) in why.items() for line in (f"{case}: {head}", *causes)]


def _first(metric: str, decision: PairDecision, noun: str) -> str:
    """As in "first slow commit"."""
    row = metric_row(metric)
    if row.timed:
        is_better = (decision.change > 0) == (row.better == "higher")
        return f"first {'fast' if is_better else 'slow'} {noun}"
    return f"first {noun} with a {_higher(decision)} {metric}"


def _compared(metric: str, decision: PairDecision, a: str, b: str) -> str:
    """As in "B is 3.1% slower than A"."""
    if metric == THROUGHPUT:
        return f"{b} is {_signed(metric, decision)} than {a}"
    return f"{metric} of {b} is {_size(decision)} {_higher(decision)} than that of {a}"


def _signed(metric: str, decision: PairDecision) -> str:
    """As in "3.1% slower"."""
    if metric == THROUGHPUT:
        return f"{_size(decision)} {'slower' if decision.change < 0 else 'faster'}"
    return f"{metric} {_size(decision)} {_higher(decision)}"


def _higher(decision: PairDecision) -> str:
    return "lower" if decision.change < 0 else "higher"


def _size(decision: PairDecision) -> str:
    return f"{abs(decision.change):.1%}"


def _pairs(decision: PairDecision) -> str:
    low, high = decision.interval
    return f"{low:+.1%} to {high:+.1%} in {counted(decision.pairs, 'pair')}"


def _sure(probability: float) -> str:
    return f"{probability:.1%}" if probability < _SUREST else f"more than {_SUREST:.1%}"
