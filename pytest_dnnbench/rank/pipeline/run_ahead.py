"""How far the host of a stage is ahead of its GPU.

A host queues passes faster than a large model's GPU runs them. Memory that a pass takes is given
back when the host has queued the last use of it, but what another stream also uses (all that was
received or is sent) can serve again only when the GPU has got there: a host further ahead needs
more of it, and the peak would be as large as luck had it. Links bound it too, since a message
leaves when its data are computed (turns.py), but by the minibatches in flight, and a pipeline of
one stage has none.
"""

from collections import deque
from typing import Any

import torch

from pytest_dnnbench.rank.pipeline.stream import stream_for

PASSES = 2
"""Passes, forward or backward, that may be queued and not finished before the host queues the next:
one runs, and one waits, so that the GPU does not run dry meanwhile. At most three passes' received
and sent tensors await the GPU."""


class RunAhead:
    """Holds the host of one rank back. Does nothing on a CPU, where a pass is done when its call
    returns."""

    def __init__(self, device: torch.device) -> None:
        self._stream = stream_for(device)
        self._marks: deque[Any] = deque()

    def passed(self) -> None:
        """A pass has been queued: waits until all but the last PASSES are finished."""
        self._marks.append(self._stream.mark())
        if len(self._marks) > PASSES:
            self._stream.reach(self._marks.popleft())
