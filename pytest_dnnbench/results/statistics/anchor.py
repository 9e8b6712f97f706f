"""A slow decline: now against the first sessions of a history, where the latest ones have declined
too and so show nothing.

What lives here is how far chance takes the level of a case from its first sessions. The null
hypothesis is not that sessions are alike but that the machine's level walks: each session adds a
step of mean zero, and has noise of its own. The steps are estimated from the differences d of
successive sessions' figures about their own mean, so that a steady decline, which is all mean, does
not hide itself:

    walk^2 = max(var(d) (1 + sqrt(2 / dof)) - 2 launch^2, 0)      what the launches do not explain
    s^2    = launch^2 (v(A) + 1) + walk^2 distance

A is the number of first sessions, v the variance of a median (noise.py), launch the error of one
session's figure that its launches explain, and distance the steps from the middle one of the first
sessions to now. The summand sqrt(2 / dof) is one standard error of a variance: a walk that is
taken for too small is multiplied by the distance. `docs/statistics.md` has the false alarms and the
power of this look, simulated.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pytest_dnnbench.results.statistics.design import Precision
from pytest_dnnbench.results.statistics.noise import (
    WINDOW,
    Noise,
    baseline_of,
    median,
    median_variance,
)

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

    def precision(self, noise: Noise, launches: int) -> Precision:
        """How exactly the difference between a session of so many launches and the first ones says
        what became of the case itself."""
        figures = [math.log(median(session)) for session in self.latest]
        steps = [after - before for before, after in pairwise(figures)]
        dof = len(steps) - 1
        mean = sum(steps) / len(steps)
        spread = sum((step - mean) ** 2 for step in steps) / dof
        count = min(launches, *(len(session) for session in self.latest))
        launch = median_variance(count) * noise.launch_sd**2
        walk = max(spread * (1 + math.sqrt(2 / dof)) - 2 * launch, 0.0)
        variance = launch * (median_variance(len(self.first)) + 1) + walk * self.distance
        return Precision(math.sqrt(variance), dof)


def anchor_of(sessions: Sequence[Sequence[float]]) -> Anchor | None:
    """The anchor of a whole history, oldest session first; None where it is too short."""
    if len(sessions) < FEWEST:
        return None
    first = sessions[:WINDOW]
    return Anchor(first, sessions, len(sessions) - len(first) // 2)
