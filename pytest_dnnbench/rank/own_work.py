"""The part of each step in which a rank needs no other rank: its length shows which rank is slow.

    exchange ──> alone ── update, data, forward ──> together ── backward, exchange ──> alone ── ...

Ranks that average their gradients take equally long for a step, since all wait for the slowest. In
the part between `alone` and `together` a rank does not wait.
"""

from itertools import pairwise
from typing import Any

from pytest_dnnbench.rank.stopwatch import Stopwatch


class OwnWork:
    """The stretches that a rank works alone. The worker marks them, the timed run reads them.

    A mark costs one reading of the clock, or one event in the device's stream; nothing waits.
    """

    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch
        self._since: Any = None
        self._stretches: list[tuple[Any, Any]] = []
        self._step_ends: list[int] = [0]

    def alone(self) -> None:
        """From here on this rank needs no other. A repeated call changes nothing."""
        if self._since is None:
            self._since = self._watch.mark()

    def together(self) -> None:
        """From here on this rank may have to wait for another."""
        if self._since is not None:
            self._stretches.append((self._since, self._watch.mark()))
            self._since = None

    def restart(self) -> None:
        """Forgets all stretches so far."""
        self._since = None
        self._stretches.clear()
        self._step_ends = [0]

    def step_done(self) -> None:
        """Ends a step: the stretches up to the latest `together` belong to it."""
        self._step_ends.append(len(self._stretches))

    def seconds(self) -> tuple[float, ...]:
        """The time alone in each step since the restart; empty without marks. The first step is
        left out, since its update came before the restart.

        Call it when the device is synchronised.
        """
        if not self._stretches:
            return ()
        parts = [self._watch.seconds(start, end) for start, end in self._stretches]
        return tuple(sum(parts[begin:end]) for begin, end in pairwise(self._step_ends[1:]))
