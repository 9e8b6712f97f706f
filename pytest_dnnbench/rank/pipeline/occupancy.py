"""How much of its time a rank computes, so that what it idles can be told: the bubble."""

from typing import Any

import torch

from pytest_dnnbench.rank.pipeline.stopwatch import stopwatch


class Occupancy:
    """Intervals of compute on the device's own time line, each belonging to a minibatch."""

    def __init__(self, device: torch.device) -> None:
        self._watch = stopwatch(device)
        self._intervals: list[tuple[int, Any, Any]] = []

    def mark(self) -> Any:
        """The present moment of the device's time line."""
        return self._watch.mark()

    def add(self, minibatch: int, start: Any) -> None:
        """The rank has computed for a minibatch from `start` until now."""
        self._intervals.append((minibatch, start, self._watch.mark()))

    def bubble_fraction(self, first: int = 0) -> float | None:
        """The idle share between the first and the last compute for minibatches from `first` on; None without any."""
        intervals = [(start, end) for minibatch, start, end in self._intervals if minibatch >= first]
        if not intervals:
            return None
        self._watch.settle()
        busy = sum(self._watch.seconds(start, end) for start, end in intervals)
        whole = self._watch.seconds(intervals[0][0], intervals[-1][1])
        return max(0.0, 1 - busy / whole) if whole > 0 else None
