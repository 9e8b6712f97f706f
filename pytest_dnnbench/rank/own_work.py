"""What of each step a rank does on its own, while it needs no other rank: what tells which of
several is the slow one.

    exchange ──> alone ── update, data, forward ──> together ── backward and exchange ──> alone ── ...

Ranks that average their gradients take equally long for a step, for all wait for the slowest;
alone, nobody waits.
"""

from itertools import pairwise
from typing import Any

from pytest_dnnbench.rank.stopwatch import Stopwatch


class OwnWork:
    """Marked by a worker, which says when it stops and starts needing the others; read by the
    session.

    A mark costs one reading of the clock, or one event in the device's stream; nothing waits.
    """

    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch
        self._since: Any = None
        self._stretches: list[tuple[Any, Any]] = []
        self._step_ends: list[int] = [0]

    def alone(self) -> None:
        """From here on this rank needs no other. Said again, it changes nothing."""
        if self._since is None:
            self._since = self._watch.mark()

    def together(self) -> None:
        """From here on it may have to wait for another."""
        if self._since is not None:
            self._stretches.append((self._since, self._watch.mark()))
            self._since = None

    def restart(self) -> None:
        """Forgets everything so far."""
        self._since = None
        self._stretches.clear()
        self._step_ends = [0]

    def step_done(self) -> None:
        """What was done alone up to the latest `together` belongs to the step that is complete
        now."""
        self._step_ends.append(len(self._stretches))

    def seconds(self) -> tuple[float, ...]:
        """Of each step since the restart but the first, whose update came before it; empty where
        nothing was marked.

        To be called when the device is synchronised.
        """
        if not self._stretches:
            return ()
        parts = [self._watch.seconds(start, end) for start, end in self._stretches]
        return tuple(sum(parts[first:last]) for first, last in pairwise(self._step_ends[1:]))
