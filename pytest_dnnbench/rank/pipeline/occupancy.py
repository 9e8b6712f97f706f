"""The intervals in which a rank computes; the rest of the time is the bubble."""

from collections.abc import Sequence
from typing import Any

import torch

from pytest_dnnbench.rank.stopwatch import stopwatch


class Occupancy:
    """Intervals of compute on the device's own time line, each of one minibatch."""

    def __init__(self, device: torch.device) -> None:
        self._watch = stopwatch(device)
        self._intervals: list[tuple[int, Any, Any]] = []

    def mark(self) -> Any:
        """The present moment on the device's time line."""
        return self._watch.mark()

    def add(self, minibatch: int, start: Any) -> Any:
        """Adds the interval from `start` until now, in which the rank computed for a minibatch.
        Returns the mark of now."""
        stop = self._watch.mark()
        self._intervals.append((minibatch, start, stop))
        return stop

    def lengths(self, intervals: Sequence[tuple[Any, Any]]) -> list[float]:
        """Seconds between pairs of marks; waits for them."""
        self._watch.settle()
        return [self._watch.seconds(*interval) for interval in intervals]

    def restart(self) -> None:
        """Forgets all intervals: minibatches count from 0 again."""
        self._intervals.clear()

    def bubble_fraction(self, begin: int = 0, end: int | None = None) -> float | None:
        """The fraction of the time that this rank idles, from the completion of minibatch
        `begin - 1` to that of `end - 1`; by default in the whole run. None without any compute.

        Compute for other minibatches in that time counts as compute.
        """
        before = [
            index for index, (minibatch, _, _) in enumerate(self._intervals) if minibatch < begin
        ]
        inside = [
            index
            for index, (minibatch, _, _) in enumerate(self._intervals)
            if end is None or minibatch < end
        ]
        opened, closed = max(before, default=-1) + 1, max(inside, default=-1) + 1
        intervals = [(start, stop) for _, start, stop in self._intervals[opened:closed]]
        if not intervals:
            return None
        self._watch.settle()
        start = self._intervals[opened - 1][2] if opened else intervals[0][0]
        busy = sum(self._watch.seconds(*interval) for interval in intervals)
        whole = self._watch.seconds(start, intervals[-1][1])
        return max(0.0, 1 - busy / whole) if whole > 0 else None
