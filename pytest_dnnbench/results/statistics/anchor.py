"""A slow decline: now against the first sessions of a history, where the latest ones have declined
too and so show nothing.

What lives here is how far chance takes the level of a case from its first sessions. The null
hypothesis is not that sessions are alike, but that the level walks: each session adds a step of
mean zero. The steps d are the differences of successive sessions' figures, and their variance is
taken about their own mean, so that a steady decline, which is all mean, does not hide itself:

    s^2 = var(d) distance        with len(d) - 1 degrees of freedom

`distance` counts the steps from the middle one of the first sessions to now. For a walk this is
Student's own test, at any size of the steps. Noise of single sessions, which does not add up, is
counted as if it did: then the look is too careful, never too quick.

Sessions that the user names as the anchor are another question: whether the level is still there. A
machine whose level walks away from it has left it too. So the null hypothesis is that the level
stays, sessions differ by noise of their own, and the steps d are differences of that noise, which
leaves a steady decline out all the same:

    s^2 = var(d) / 2 (1 + v(K))    K sessions are the anchor, v the variance of a median

`docs/statistics.md` has false alarms and power of both, simulated by benchmarks/decline.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pytest_dnnbench.results.statistics.design import Precision
from pytest_dnnbench.results.statistics.noise import (
    TIME,
    WINDOW,
    Prior,
    baseline_of,
    learn,
    median,
    median_variance,
)

SHARE = 0.1
"""Of a test's false-alarm rate, what this look may use; the look at the latest sessions has the
rest."""


def rate_of_latest(alpha: float) -> float:
    """The false-alarm rate of the look at the latest sessions, of a test at `alpha`."""
    return (1 - SHARE) * alpha


FEWEST = WINDOW + 2
"""Sessions from which on the first ones are another baseline than the latest."""

# Chosen by simulation: benchmarks/decline.py --anchor.
_ASSUMED_DOF = 4.0


@dataclass(frozen=True, slots=True)
class Anchor:
    """The first sessions of one metric, the latest ones, oldest first, and the number of steps
    from the middle one of the first to the session at hand.

    `named`: the user's own words for the first sessions, where the user chose them; then the level
    is held to stay, and `distance` counts for nothing. `prior` is what is assumed of the noise of
    few sessions.
    """

    first: Sequence[Sequence[float]]
    latest: Sequence[Sequence[float]]
    distance: int
    named: str = ""
    prior: Prior = TIME

    @property
    def figure(self) -> float:
        """The figure of the first sessions."""
        return baseline_of(self.first)

    @property
    def precision(self) -> Precision:
        """How exactly the difference from the first sessions says what became of the case."""
        if self.named:
            return self._precision_of_a_level()
        squares, dof = _squares_of_steps(self.latest)
        return Precision(math.sqrt(squares / dof * self.distance), dof)

    def _precision_of_a_level(self) -> Precision:
        """The anchor's own sessions and the latest ones say how much sessions differ. That they
        differ as much as launches do is assumed at the weight of _ASSUMED_DOF."""
        noise = learn([*self.first, *self.latest], self.prior)
        launches = min(len(session) for session in (*self.first, *self.latest))
        assumed = noise.launch_sd**2 * (median_variance(launches) + 1)
        squares, dof = map(
            sum, zip(*map(_squares_of_steps, (self.first, self.latest)), strict=True)
        )
        # Neighbouring differences share a session: so many of them say as much as 2/3 as many
        # independent ones (von Neumann 1941).
        worth = 2 * dof / 3
        variance = (_ASSUMED_DOF * assumed + worth * squares / max(dof, 1) / 2) / (
            _ASSUMED_DOF + worth
        )
        both = 1 + median_variance(min(len(self.first), WINDOW))
        return Precision(math.sqrt(variance * both), _ASSUMED_DOF + worth)


def _squares_of_steps(sessions: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Sum of squares of the steps from session to session about their mean, and its degrees of
    freedom."""
    figures = [math.log(median(session)) for session in sessions]
    steps = [after - before for before, after in pairwise(figures)]
    if len(steps) < 2:
        return 0.0, 0
    mean = math.fsum(steps) / len(steps)
    return math.fsum((step - mean) ** 2 for step in steps), len(steps) - 1


def anchor_of(sessions: Sequence[Sequence[float]]) -> Anchor | None:
    """The anchor of a whole history, oldest session first; None where it is too short."""
    if len(sessions) < FEWEST:
        return None
    first = sessions[:WINDOW]
    return Anchor(first, sessions, len(sessions) - len(first) // 2)
