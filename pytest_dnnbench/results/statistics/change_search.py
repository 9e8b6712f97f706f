"""Where in an ordered history one change lies: after each comparison how probable every place is,
and what to compare next.

A history has places 0 (good) to n (bad). At one of 1 ... n the change came: from there on, figures
are higher or lower by one difference. Two places are compared in pairs of launches; the mean of

    d = log(later / earlier)

is the difference if the change came after the earlier place and not after the later one, else 0.

    place       0   1   2   3   4   5   6   7   8        change at 5
    figure      .   .   .   .   .   '   '   '   '
    compared    A . . . . . . . . . . . . . . . B        the ends: how large the difference is
                A . . . . . . . B                        0
                A . . . . . . . . . . . B                the difference
                                A . B                    0 ... and so on, wherever most is learnt

A Bayesian search with noisy answers [1]: every place is equally probable at first; each comparison
multiplies the places by the likelihood of its pairs; the next comparison is the one whose answer is
least certain beforehand. No answer is final: where later pairs disagree, the probability moves back
by itself. The search ends when one place has all but `error` of the probability and has been
compared with its neighbour directly.

The likelihood of pairs is Student's t of their mean, for their spread is unknown: few pairs that
agree by luck weigh less than their spread suggests, and each comparison may have noise of its own.
The difference is unknown too: it is integrated over a grid around what the ends have shown, flat a
priori, with the sign that they have shown.

[1] R. Waeber, P. I. Frazier and S. G. Henderson, "Bisection search with noisy responses", SIAM
    Journal on Control and Optimization 51(3), 2013.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pytest_dnnbench.results.statistics.paired import FIRST_LOOK

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

ROUNDS = FIRST_LOOK
"""Pairs of one comparison: the fewest from which a difference may be told from chance."""

_GRID = 121
_LEAST, _MOST = 0.25, 1.75
"""The grid of the difference, as multiples of what the ends have shown: closer to zero, "like bad"
would be no other answer than "like good"."""

LUCK = 0.15
"""Two builds of one source differ too, by the luck of their layout: by this part of the difference
(a standard deviation). However often two places are compared, their mean is not better known."""


SPOILT = 1e-3
"""How often the comparison of two places may be plainly wrong, whatever its pairs say: no two
places outweigh others by more than this, so that answers that contradict each other are asked
again."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of two places: log(later / earlier) of each."""

    earlier: int
    later: int
    logs: tuple[float, ...]

    def spans(self, place: int) -> bool:
        """Whether a change at this place lies between the two."""
        return self.earlier < place <= self.later


@dataclass(frozen=True, slots=True)
class Candidate:
    """Where the change may be: two neighbouring places that can be measured, and the probability
    that it came after `before` and not after `at`. Places between the two cannot be measured."""

    before: int
    at: int
    probability: float


def merged(measured: Iterable[Pairs]) -> list[Pairs]:
    """All pairs of the same two places together."""
    logs: dict[tuple[int, int], list[float]] = {}
    for pairs in measured:
        logs.setdefault((pairs.earlier, pairs.later), []).extend(pairs.logs)
    return [Pairs(*places, tuple(values)) for places, values in logs.items()]


def candidates_of(places: Sequence[int], measured: Iterable[Pairs]) -> list[Candidate]:
    """How probable the change is at each candidate.

    `places` are those that can be measured, in order; the first is good, the last is bad, and the
    pairs of these two are among `measured`. Comparisons of other places are left out.
    """
    import numpy as np

    usable = [each for each in merged(measured) if {each.earlier, each.later} <= {*places}]
    ends = (places[0], places[-1])
    grid = _differences(next(each for each in usable if (each.earlier, each.later) == ends))
    luck = LUCK * float(np.abs(grid).mean())
    changed = [_log_likelihood(each, grid, luck) for each in usable]
    same = [float(_log_likelihood(each, np.zeros(1), luck)[0]) for each in usable]
    weights: dict[tuple[bool, ...], float] = {}
    logs = []
    for before, at in pairwise(places):
        spanned = tuple(each.spans(at) for each in usable)
        if spanned not in weights:
            total = sum(
                (changed[number] if inside else same[number])
                for number, inside in enumerate(spanned)
            )
            weights[spanned] = float(np.logaddexp.reduce(np.broadcast_to(total, grid.shape)))
        # Places that cannot be measured are as probable as others.
        logs.append(weights[spanned] + math.log(at - before))
    shares = np.exp(np.array(logs) - np.logaddexp.reduce(logs))
    return [
        Candidate(before, at, float(share))
        for (before, at), share in zip(pairwise(places), shares, strict=True)
    ]


def most_probable(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate with the greatest probability; the first of several."""
    return max(candidates, key=lambda each: each.probability)


def next_comparison(
    candidates: Sequence[Candidate], measured: Iterable[Pairs], error: float
) -> tuple[int, int] | None:
    """The two places to compare next: those whose answer is least certain. None where the search
    is at its end, with all but `error` of the probability at one candidate whose own two places
    have been compared."""
    best = most_probable(candidates)
    direct = (best.before, best.at)
    compared = {(each.earlier, each.later) for each in measured}
    if best.probability >= 1 - error:
        return None if direct in compared else direct
    good, sum_so_far = candidates[0].before, 0.0
    measured_places = {place for places in compared for place in places}
    # One of the two has been measured, so that a session that fails tells which place is broken.
    options = {direct: best.probability} if measured_places & {*direct} else {}
    for candidate in candidates[:-1]:
        sum_so_far += candidate.probability
        options.setdefault((good, candidate.at), sum_so_far)
    return min(options, key=lambda places: abs(options[places] - 0.5))


def _differences(ends: Pairs) -> "Array":
    """The differences that are considered."""
    import numpy as np

    mean = math.fsum(ends.logs) / len(ends.logs)
    return np.linspace(_LEAST, _MOST, _GRID) * mean


def _log_likelihood(pairs: Pairs, means: "Array", luck: float) -> "Array":
    """Of the pairs, for each mean that they may have: relative to that of the best mean."""
    import numpy as np

    count, mean = len(pairs.logs), math.fsum(pairs.logs) / len(pairs.logs)
    within = math.fsum((log - mean) ** 2 for log in pairs.logs) / (count - 1) / count
    variance = within + luck**2
    # Satterthwaite: the part that is not estimated from these pairs has no uncertainty of its own.
    dof = (count - 1) * (variance / max(within, 1e-9 * variance)) ** 2
    far = (mean - means) ** 2 / variance
    return np.asarray(np.log(np.exp(-(dof + 1) / 2 * np.log1p(far / dof)) + SPOILT))
