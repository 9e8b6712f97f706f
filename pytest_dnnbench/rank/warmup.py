"""How many steps to warm up, and how many to time: what a length (run_length.py) comes to.

    stretch 1    stretch 2     stretch 3     ...     timed run
    ─ cold ──┤├─────────────┤├─────────────┤     ├─ lead-in ─┤ timed ├─ run-on ─┤
             drained        drained        drained

A warm-up whose number of steps is not given runs in stretches, each a run of its own that ends
drained. Every rank learns how long the slowest rank took for a stretch (agreement.py) and decides
alike. Two successive stretches of as many steps are steady when their times differ by at most
STEADY; one is long enough to be compared from half of `stretch_s` on. No clock is read here.

A stretch may be hit: a rank lost its core, and the stretch took a second longer. So in what the
bounds hold for, the steps of a stretch count at its own pace or that of a faster neighbour, and the
window follows from the faster of the last two stretches.
"""

import math
from dataclasses import dataclass, field

from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.run_length import AUTO, Length, seconds_of

STEADY = 0.05
"""The largest difference of two stretches that are steady, as a fraction of the shorter."""

LEAST_STEPS = 3
"""Warm-up steps of "auto", at least: the first step makes the buffers, the second reuses them."""

ALIKE = 2.0
"""How many times slower than the other one of two stretches is at most, for the number of timed
steps to follow from them."""

_GROWTH = 16
"""How many times longer than the one before a stretch is at most: the first steps are slow, and say
little of the next ones."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of an automatic warm-up, in seconds without what hit single stretches.

    stretch_s    how long a stretch is to take: the noise of single steps averages out
    least_s      the shortest warm-up
    most_s       the longest; steps that are not steady by then are timed all the same, and the
                 record says so
    """

    stretch_s: float
    least_s: float
    most_s: float


CPU = Bounds(stretch_s=0.05, least_s=0.0, most_s=1.0)
CUDA = Bounds(stretch_s=0.25, least_s=0.5, most_s=10.0)
"""A GPU's clocks take some tenths of a second to come up from idle."""


def whole_turns(steps: int, turn: int) -> int:
    """The fewest whole turns with at least so many steps, in steps."""
    return -(-steps // turn) * turn


@dataclass(slots=True)
class Warmup:
    """A warm-up in stretches: `next_stretch` says how many steps to run, `ran` takes how long they
    took. All ranks give the same figures, so all decide alike.

    turn       steps after which the pattern of a job's steps repeats: stretches are whole turns
    fill       steps that fill and drain a pipeline; 0 where ranks step together
    measured   the steps of the timed run follow from the last two stretches, so they have to be
               about as fast, and the last one long
    """

    length: Length
    bounds: Bounds
    turn: int = 1
    fill: int = 0
    measured: bool = False
    steps: int = 0
    seconds: float = 0.0
    steady: bool = False
    _stretches: list[tuple[int, float]] = field(default_factory=list)
    _compared: bool = False

    @property
    def was_steady(self) -> bool | None:
        """Whether the last two stretches took equally long; None where the length was given and
        left no two to compare."""
        return self.steady if self._compared or self.length == AUTO else None

    @property
    def step_s(self) -> float | None:
        """Seconds of a step in the faster of the last two stretches; None before the first one."""
        return min(self._paces_s[-2:], default=None)

    @property
    def _paces_s(self) -> list[float]:
        """Seconds of a step, by stretch."""
        return [seconds / steps for steps, seconds in self._stretches]

    @property
    def _unhit_s(self) -> float:
        """How long the warm-up took, without what hit single stretches."""
        paces_s = self._paces_s
        return sum(
            steps * min(paces_s[max(0, at - 1) : at + 2])
            for at, (steps, _) in enumerate(self._stretches)
        )

    def next_stretch(self) -> int:
        """The steps of the next stretch; 0 when the warm-up is over."""
        if self._is_over():
            return 0
        if not self._stretches:
            first = self.length if isinstance(self.length, int) else 1
            return whole_turns(max(first, self.fill, 1), self.turn)
        steps, seconds = self._stretches[-1]
        if self._is_long(seconds):
            return steps
        wanted = math.ceil(steps * min(self.bounds.stretch_s / seconds, _GROWTH))
        return whole_turns(max(wanted, 1), self.turn)

    def ran(self, steps: int, seconds: float) -> None:
        """The next stretch has run, in so many seconds on the slowest rank. Raises WrongResult for
        a time that cannot be: no warm-up would end by it."""
        if not 0 < seconds < math.inf:
            raise WrongResult(
                f"the clock of a rank counted {seconds!r} s for {steps} warm-up steps: its times"
                " mean nothing; look for code that replaces a clock on the ranks"
            )
        if self._stretches:
            before_steps, before_s = self._stretches[-1]
            self._compared = steps == before_steps and self._is_long(min(seconds, before_s))
            self.steady = self._compared and abs(seconds - before_s) <= STEADY * min(
                seconds, before_s
            )
        self._stretches.append((steps, seconds))
        self.steps += steps
        self.seconds += seconds

    def timed_steps(self, seconds: float) -> int:
        """Steps that take at least so long, at the pace of the faster of the last two stretches.

        A pipeline needs at most `fill` steps' time to fill and drain, so the pace is at least that
        of `fill` steps more: the window comes out longer than asked for, not shorter.
        """
        assert self._stretches, "the pace follows from a stretch"
        per_s = max((steps + self.fill) / took_s for steps, took_s in self._stretches[-2:])
        return whole_turns(max(1, math.ceil(seconds * per_s)), self.turn)

    def _is_long(self, seconds: float) -> bool:
        return seconds >= self.bounds.stretch_s / 2

    def _has_pace(self) -> bool:
        """Whether the number of timed steps follows from the last two stretches."""
        if len(self._stretches) < 2 or not self._is_long(self._stretches[-1][1]):
            return False
        fast_s, slow_s = sorted(self._paces_s[-2:])
        return slow_s <= ALIKE * fast_s or self._unhit_s >= self.bounds.most_s

    def _is_over(self) -> bool:
        if not self._stretches or (self.measured and not self._has_pace()):
            return False
        if isinstance(self.length, int):
            return self.steps >= self.length
        if self.length != AUTO:
            return self.seconds >= (seconds_of(self.length) or 0.0)
        if self.steps < LEAST_STEPS or self._unhit_s < self.bounds.least_s:
            return False
        return self.steady or self._unhit_s >= self.bounds.most_s
