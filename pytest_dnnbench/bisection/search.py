"""The search: good and bad are compared first, then whatever places tell most, until one change has
all but a stated error of the probability.

    good, bad ──> do they differ? ──no──> NoDifference
                       │ yes: the cases that do, and their weights
                       v
    places to compare next (statistics/change_search.py) <──┐
                       │                                     │
                       └──> compare, keep the pairs ─────────┘──> Ending

A place that cannot be measured is skipped, as by `git bisect skip`. Pure but for `compare`, which
is given. Not here: sentences (words.py).
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pytest_dnnbench.bisection.comparing import CannotMeasure, SessionFailed, SessionPairs
from pytest_dnnbench.bisection.kept_search import (
    FEWEST,
    LEAST_SPREAD,
    ComparedPlaces,
    Search,
    UnderWay,
)
from pytest_dnnbench.errors import DnnbenchError, UsageError
from pytest_dnnbench.results.records.side_by_side import SideMetric
from pytest_dnnbench.results.statistics.change_search import (
    ROUNDS,
    Candidate,
    Pairs,
    candidates_of,
    merged,
    most_probable,
    next_comparison,
)
from pytest_dnnbench.results.statistics.paired import PairDecision, decide_pairs, pair_prior
from pytest_dnnbench.results.verdicts.side_by_side import NOT_OF_A_PAIR

_SPARE = 20
"""Sessions beyond those of a bisection without noise, unless the user says how many."""


class Compare(Protocol):
    """Compares two places in one session; see comparing.Sessions.compare."""

    def __call__(
        self, search: Search, places: tuple[str, str], rounds: int, *, resume: bool
    ) -> SessionPairs: ...


@dataclass(frozen=True, slots=True)
class NoDifference:
    """Good and bad do not differ: of each case, what was seen and what would have been."""

    judged: Mapping[str, SideMetric]


@dataclass(frozen=True, slots=True)
class Ending:
    """What a search says. `candidates` are all that can be told apart; `settled` where one of them
    has all but the error of the probability. `direct` compares the two places of the most probable,
    None where they were not compared, and `ends` good and bad. `is_part`: this candidate is clearly
    smaller than the whole difference."""

    candidates: list[Candidate]
    settled: bool
    direct: PairDecision | None
    ends: PairDecision
    is_part: bool = False

    @property
    def best(self) -> Candidate:
        """The most probable candidate."""
        return most_probable(self.candidates)


@dataclass(frozen=True, slots=True)
class SearchProgress:
    """What was learnt from one comparison: its places and pairs, how many places the change may
    still be at, with all but the error of the probability; or why a place was skipped."""

    earlier: int
    later: int
    pairs: PairDecision | None
    left: int
    skipped: CannotMeasure | None = None


def run_search(
    search: Search,
    compare: Compare,
    keep: Callable[[], None],
    say: Callable[[SearchProgress], None],
) -> NoDifference | Ending:
    """Searches, from wherever the search is. `keep` keeps it, and is called before and after each
    comparison; `say` is told what came of it. Raises what `compare` raises, but for a place between
    the ends that cannot be measured."""
    last = len(search.places) - 1
    if not search.cases:
        answer = _verify(search, compare, keep)
        if answer is not None:
            return answer
        say(_progress(search, 0, last))
    while True:
        usable = [place for place in range(last + 1) if place not in search.unmeasurable]
        compared = pairs_of(search)
        candidates = candidates_of(usable, compared)
        following = next_comparison(candidates, compared, search.error)
        if following is None or len(search.comparisons) >= most_sessions(search):
            return _ending(search, candidates, settled=following is None)
        try:
            _compare(search, compare, keep, following, ROUNDS)
        except CannotMeasure as refusal:
            place = search.places.index(refusal.place)
            if place in (0, last):
                raise
            search.unmeasurable[place] = refusal.why
            search.under_way = None
            keep()
            say(SearchProgress(*following, None, 0, skipped=refusal))
            continue
        say(_progress(search, *following))


def most_sessions(search: Search) -> int:
    """After so many sessions the search ends, settled or not."""
    halvings = math.ceil(math.log2(len(search.places)))
    return search.most_sessions or 2 * halvings + _SPARE


def pairs_of(search: Search) -> list[Pairs]:
    """All comparisons of the search: of each round, the weighted mean over its cases."""
    return [
        Pairs(each.earlier, each.later, tuple(_mean(each.logs, search.cases)))
        for each in search.comparisons
    ]


def left_over(candidates: list[Candidate], error: float) -> int:
    """How many places have all but `error` of the probability."""
    covered, count = 0.0, 0
    for candidate in sorted(candidates, key=lambda each: -each.probability):
        if covered >= 1 - error:
            break
        covered += candidate.probability
        count += candidate.at - candidate.before
    return count


def _verify(search: Search, compare: Compare, keep: Callable[[], None]) -> NoDifference | None:
    """Compares good and bad, and chooses the cases in which they differ: if some are worse than
    before, those."""
    places = (0, len(search.places) - 1)
    result = _session(search, compare, keep, places, search.rounds)
    if not result.logs:
        _refuse(search, result)
    worse, better = (
        [name for name, each in result.judged.items() if each.status == status]
        for status in ("worse", "better")
    )
    chosen = worse or better
    if not chosen:
        search.under_way = None
        keep()
        return NoDifference(result.judged)
    search.cases = {name: _weight(result.logs[name]) for name in chosen}
    search.others = sorted({*result.logs, *result.failures} - {*chosen})
    _add(search, keep, places, result)
    return None


def _refuse(search: Search, result: SessionPairs) -> None:
    """Good and bad cannot be compared."""
    if result.failures:
        case, why = next(iter(result.failures.items()))
        raise CannotMeasure(search.places[-1], f"{case}: {why}")
    choices = ", ".join(sorted(result.metrics - NOT_OF_A_PAIR.keys()))
    raise UsageError(f"no case has the metric {search.metric}: choose from {choices}")


def _weight(logs: list[float]) -> float:
    """A case's weight: the less its pairs vary, the more it says."""
    return 1 / max(statistics.stdev(logs), LEAST_SPREAD) ** 2


def _session(
    search: Search,
    compare: Compare,
    keep: Callable[[], None],
    places: tuple[int, int],
    rounds: int,
) -> SessionPairs:
    """One session; one of the same places and rounds that was interrupted is continued."""
    comparison = UnderWay(*places, rounds)
    resume = search.under_way == comparison
    search.under_way = comparison
    keep()
    names = (search.places[places[0]], search.places[places[1]])
    return compare(search, names, rounds, resume=resume)


def _compare(
    search: Search,
    compare: Compare,
    keep: Callable[[], None],
    places: tuple[int, int],
    rounds: int,
) -> None:
    """Compares two places and keeps the pairs. Raises CannotMeasure for that one which is to
    blame."""
    try:
        result = _session(search, compare, keep, places, rounds)
    except SessionFailed as failure:
        raise _blamed(search, places, str(failure)) from failure
    for case in search.cases:
        if case in result.failures:
            raise CannotMeasure(search.places[places[1]], f"{case}: {result.failures[case]}")
        if len(result.logs.get(case, ())) < FEWEST:
            raise _blamed(search, places, f"{case} was not measured {FEWEST} times on both sides")
    _add(search, keep, places, result)


def _blamed(search: Search, places: tuple[int, int], why: str) -> DnnbenchError:
    """Of two places, of which one was never measured, that one is to blame."""
    measured = {place for each in search.comparisons for place in (each.earlier, each.later)}
    new = [place for place in places if place not in measured]
    if len(new) != 1:
        return UsageError(f"a session failed, although both of its sides had been measured: {why}")
    return CannotMeasure(search.places[new[0]], why)


def _add(
    search: Search, keep: Callable[[], None], places: tuple[int, int], result: SessionPairs
) -> None:
    logs = {case: result.logs[case] for case in search.cases}
    why = {case: lines for case, lines in result.why.items() if case in search.cases}
    search.comparisons.append(ComparedPlaces(*places, logs, why))
    search.under_way = None
    keep()


def _mean(logs: Mapping[str, list[float]], weights: Mapping[str, float]) -> list[float]:
    rounds = min(len(logs[case]) for case in weights)
    total = math.fsum(weights.values())
    return [
        math.fsum(weight * logs[case][number] for case, weight in weights.items()) / total
        for number in range(rounds)
    ]


def _progress(search: Search, earlier: int, later: int) -> SearchProgress:
    usable = [n for n in range(len(search.places)) if n not in search.unmeasurable]
    compared = pairs_of(search)
    left = left_over(candidates_of(usable, compared), search.error)
    return SearchProgress(earlier, later, _decision(compared[-1], search.error), left)


def _ending(search: Search, candidates: list[Candidate], *, settled: bool) -> Ending:
    by_places = {(each.earlier, each.later): each for each in merged(pairs_of(search))}
    best = most_probable(candidates)
    direct = by_places.get((best.before, best.at))
    return Ending(
        candidates,
        settled,
        None if direct is None else _decision(direct, search.error),
        _decision(ends := by_places[0, len(search.places) - 1], search.error),
        is_part=direct is not None and _is_part(direct.logs, ends.logs, search.error),
    )


def _is_part(direct: Sequence[float], ends: Sequence[float], error: float) -> bool:
    """Whether a candidate's change is smaller than the whole difference, by Welch's test of the
    pairs' logs. At half the error: the first session ends when it sees a difference, and so sees it
    too large on average."""
    from scipy.special import stdtr

    sign = math.copysign(1.0, statistics.fmean(ends))
    beyond = sign * (statistics.fmean(ends) - statistics.fmean(direct))
    a, b = (max(statistics.stdev(s), LEAST_SPREAD) ** 2 / len(s) for s in (direct, ends))
    dof = (a + b) ** 2 / (a**2 / (len(direct) - 1) + b**2 / (len(ends) - 1))
    return float(stdtr(dof, -beyond / math.sqrt(a + b))) < error / 2


def _decision(pairs: Pairs, error: float) -> PairDecision:
    ratios = [math.exp(log) for log in pairs.logs]
    return decide_pairs(ratios, prior=pair_prior([]), alpha=error, share=1.0)
