"""A slow decline: now against the first sessions of a history, where the latest ones have declined
too and so show nothing.

What lives here is how far chance takes the level of a case from its first sessions. The null
hypothesis is not that sessions are alike, but that the level walks: each session adds a step of
mean zero. The steps d are the differences of successive sessions' figures, and their variance is
taken about their own mean, so that a steady decline, which is all mean, does not hide itself:

    s^2 = var(d) distance        with len(d) - 1 degrees of freedom

`distance` counts the steps from the middle one of the first sessions to now. For a walk this is
Student's own test, at any size of the steps. Noise of single sessions, which does not add up, is
counted as if it did: then the look is too careful, never too quick. `docs/statistics.md` has its
false alarms and its power, simulated by benchmarks/decline.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pytest_dnnbench.results.statistics.design import Precision
from pytest_dnnbench.results.statistics.noise import WINDOW, baseline_of, median

SHARE = 0.1
"""Of a test's false-alarm rate, what this look may use; the look at the latest sessions has the
rest."""

FEWEST = WINDOW + 2
"""Sessions from which on the first ones are another baseline than the latest."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """The first sessions of one metric, the latest ones, oldest first, and the number of steps
    from the middle one of the first to the session at hand."""

    first: Sequence[Sequence[float]]
    latest: Sequence[Sequence[float]]
    distance: int

    @property
    def figure(self) -> float:
        """The figure of the first sessions."""
        return baseline_of(self.first)

    @property
    def precision(self) -> Precision:
        """How exactly the difference from the first sessions says what became of the case."""
        figures = [math.log(median(session)) for session in self.latest]
        steps = [after - before for before, after in pairwise(figures)]
        dof = len(steps) - 1
        mean = math.fsum(steps) / len(steps)
        variance = math.fsum((step - mean) ** 2 for step in steps) / dof
        return Precision(math.sqrt(variance * self.distance), dof)


def anchor_of(sessions: Sequence[Sequence[float]]) -> Anchor | None:
    """The anchor of a whole history, oldest session first; None where it is too short."""
    if len(sessions) < FEWEST:
        return None
    first = sessions[:WINDOW]
    return Anchor(first, sessions, len(sessions) - len(first) // 2)
