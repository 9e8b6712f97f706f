"""Where the level of a history changed: between which sessions, by how much, and how sure that is.

What lives here is a retrospective look at a whole history; whether the latest session is a
regression is decided in decision.py. The figures are logarithms, so a difference is relative.

    figures   . . . . ' ' ' ' ' . . .          ' higher level
    splits          |                          the best split, if chance hardly gives as good a one
    stretches       |_________|                or the best stretch between two changes

Circular binary segmentation [1]: of all splits, and of all stretches inside, the one whose mean
differs most from the rest, in units of its standard error. How often chance alone reaches as much
is counted over permutations of the very same figures: that is exact for sessions that differ in any
way but in their order, whatever the distribution of the noise [2]. Then the parts are searched in
the same way. A part holds at least FEWEST sessions, and figures far from the middle count as less
far, so that a single slow session is no change.

A history of n sessions has few orders when n is small: below 11 sessions nothing is ever called at
1%. A level that drifts gives changes, and rightly: it is not the same from session to session. A
steady slope becomes a stair.

[1] A. B. Olshen et al., "Circular binary segmentation for the analysis of array-based DNA copy
    number data", Biostatistics 5(4), 2004.
[2] D. S. Matteson and N. A. James, "A nonparametric approach for multiple change point analysis of
    multivariate data", JASA 109, 2014, section 3: permutations, one change after the other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

FEWEST = 2
"""Sessions of a part: one alone cannot be told from an unusual session."""

RATE = 0.01
"""In at most this share of the histories in which nothing changed, a change is named."""

PERMUTATIONS = 1999
"""Orders that are tried: 1 / (this + 1) is the smallest probability that can be stated."""

LEAST_RATE = 2 / (PERMUTATIONS + 1)
"""With a smaller rate no change is ever named, however clear: half of it is for either search."""

_CHUNK = 100
_FAR = 5.0
"""Figures further from the median than this many deviations (of the middle half, scaled to the
normal distribution) count as so far."""
_NORMAL_MAD = 1.4826


@dataclass(frozen=True, slots=True)
class ChangePoint:
    """A change between two parts of a history.

    `at` is the place of the first figure after it. `change` is relative to the level before, a
    signed fraction of the figures themselves, and `interval` holds it with 95% probability if the
    place is right. `chance` is the share of orders of the same figures that show a change as clear
    somewhere; two changes that end one stretch share it.
    """

    at: int
    change: float
    interval: tuple[float, float]
    chance: float


@dataclass(frozen=True, slots=True)
class _Cut:
    """The best way to cut a part: at one place, or around a stretch."""

    places: tuple[int, ...]
    gain: float


def change_points(figures: Sequence[float], *, rate: float = RATE) -> list[ChangePoint]:
    """The changes in a history of figures, oldest first, each above zero. `rate` is the probability
    with which a history without a change gets any; each part between changes may get a further
    one with the same probability."""
    import numpy as np

    logs = np.log(np.asarray(figures, dtype=np.float64))
    chances: dict[int, float] = {}
    todo = [(0, len(logs))]
    while todo:
        first, last = todo.pop()
        places, chance = _search(logs[first:last], rate)
        if places:
            cuts = [first + place for place in places]
            chances |= dict.fromkeys(cuts, chance)
            todo += pairwise((first, *cuts, last))
    return [
        _change_point(logs, before, at, after, chances[at])
        for before, at, after in _neighbours(sorted(chances), len(logs))
    ]


def fewest_sessions(rate: float = RATE) -> int:
    """The length of the shortest history in which a change can be named: of fewer sessions, chance
    alone orders any figures by size so often that even the clearest step proves nothing."""
    count = 2 * FEWEST
    while 2 / math.comb(count, count // 2) >= rate / 2:
        count += 1
    return count


def _neighbours(places: Sequence[int], count: int) -> list[tuple[int, int, int]]:
    """Each place between the begin of the part before it and the end of the part after it."""
    ends = (0, *places, count)
    return list(zip(ends, places, ends[2:], strict=False))


def _search(logs: "Array", rate: float) -> tuple[tuple[int, ...], float]:
    """The places of the best cut of a part and its chance; no places where chance gives as much.
    Half of the rate is for one split, half for a stretch: of short histories only a split can be
    called, as there are more stretches than orders."""
    import numpy as np

    if len(logs) < 2 * FEWEST:
        return (), 1.0
    values = _near(logs)
    sizes = _gain_sizes(len(values))
    cuts = _best(values[None, :], sizes)
    if not max(cut.gain for cut in cuts) > 1e-12 * max(len(values), 1):
        return (), 1.0  # all figures are the same
    rng = np.random.default_rng(len(values))  # the same history gives the same answer
    reached = np.zeros(2, dtype=int)
    allowed = rate / 2 * (PERMUTATIONS + 1) - 1
    left = PERMUTATIONS
    while left and (reached <= allowed).any():
        orders = rng.permuted(np.tile(values, (min(_CHUNK, left), 1)), axis=1)
        gains = _gains(orders, sizes)
        for kind, cut in enumerate(cuts):
            # Orders that only rounding makes smaller are as good.
            reached[kind] += int((gains[kind] >= cut.gain * (1 - 1e-9)).sum())
        left -= len(orders)
    clear = [kind for kind in range(2) if reached[kind] <= allowed]
    if not clear:
        return (), 1.0
    best = max(clear, key=lambda kind: cuts[kind].gain)
    return cuts[best].places, 2 * float(reached[best] + 1) / (PERMUTATIONS + 1)


def _near(logs: "Array") -> "Array":
    """The figures around their median, those that are far drawn near. Only the set of figures
    decides how far that is, so it is the same for each order."""
    import numpy as np

    centred = logs - np.median(logs)
    spread = _NORMAL_MAD * float(np.median(np.abs(centred)))
    return np.asarray(np.clip(centred, -_FAR * spread, _FAR * spread) if spread else centred)


def _gain_sizes(count: int) -> "Array":
    """The lengths that one side of a cut may have."""
    import numpy as np

    return np.arange(FEWEST, count - FEWEST + 1)


def _scores(orders: "Array", length: int) -> "Array":
    """For every stretch of this length, by its begin: the sum of squares that a level of its own
    explains. orders: orders x sessions; returns orders x begins."""
    import numpy as np

    count = orders.shape[1]
    sums = np.concatenate([np.zeros((len(orders), 1)), np.cumsum(orders, axis=1)], axis=1)
    inside = sums[:, length:] - sums[:, :-length]
    rest = sums[:, -1:] - inside
    difference = inside / length - rest / (count - length)
    return np.asarray(difference**2 * (length * (count - length) / count))


def _gains(orders: "Array", sizes: "Array") -> "Array":
    """Of each order, the largest gain of a split and of a stretch inside: 2 x orders."""
    import numpy as np

    best = np.zeros((2, len(orders)))
    for length in sizes:
        scores = _scores(orders, int(length))
        best[0] = np.maximum(best[0], scores[:, 0])  # the begin is split off
        inner = scores[:, FEWEST:-FEWEST]
        if inner.shape[1]:
            best[1] = np.maximum(best[1], inner.max(axis=1))
    return best


def _best(values: "Array", sizes: "Array") -> tuple[_Cut, _Cut]:
    """The best split and the best stretch of one order."""
    import numpy as np

    split, stretch = _Cut((), 0.0), _Cut((), 0.0)
    for length in map(int, sizes):
        scores = _scores(values, length)[0]
        if scores[0] > split.gain:
            split = _Cut((length,), float(scores[0]))
        inner = scores[FEWEST:-FEWEST]  # what is left on either side is a part of its own
        if len(inner) and inner.max() > stretch.gain:
            begin = int(np.argmax(inner)) + FEWEST
            stretch = _Cut((begin, begin + length), float(inner.max()))
    return split, stretch


def _change_point(logs: "Array", before: int, at: int, after: int, chance: float) -> ChangePoint:
    """The change between two neighbouring parts, of their medians; its error is that of their
    means, from the spread within both."""
    import numpy as np
    from scipy.special import stdtrit

    left, right = logs[before:at], logs[at:after]
    shift = float(np.median(right) - np.median(left))
    dof = max(len(left) + len(right) - 2, 1)
    squares = float(((left - left.mean()) ** 2).sum() + ((right - right.mean()) ** 2).sum())
    # pi/2: the variance of a median over that of a mean, of many normal values.
    error = math.sqrt(math.pi / 2 * squares / dof * (1 / len(left) + 1 / len(right)))
    half = -float(stdtrit(dof, 0.025)) * error
    ends = (math.expm1(shift - half), math.expm1(shift + half))
    return ChangePoint(at, math.expm1(shift), ends, chance)
