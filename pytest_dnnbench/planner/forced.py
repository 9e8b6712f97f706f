"""Stages of a forced shape: the best cuts when the replicas of every stage are given.

What lives here: the dynamic program over cuts alone. Not here: what stages cost (corrected.py).
"""

from collections.abc import Sequence

import numpy as np

from pytest_dnnbench.planner.pipelines import Stretch
from pytest_dnnbench.planner.states import Flags, Floats


def best_cuts(seconds: Sequence[Floats], replicas: Sequence[int]) -> tuple[Stretch, ...] | None:
    """The stages with the least bottleneck, or None if every choice costs infinity.

    `seconds[s][start, end]` is the cost of stage s. Of equals, the last cuts are the earliest.
    """
    best = np.full(len(seconds[0]), np.inf)
    best[0] = 0.0
    cuts = []
    for table in seconds:
        slowest = np.maximum(best[:, None], table)
        cuts.append(slowest.argmin(axis=0))
        best = slowest.min(axis=0)
    if np.isinf(best[-1]):
        return None
    stages: list[Stretch] = []
    end = len(best) - 1
    for cut, count in zip(reversed(cuts), reversed(replicas), strict=True):
        stages.append((int(cut[end]), end, count))
        end = int(cut[end])
    return tuple(reversed(stages))


def most_stages(inside: Flags) -> int:
    """The most stages that states allow: the longest path from the empty state to the full one."""
    longest = np.zeros(len(inside), dtype=np.int64)
    for end in range(1, len(inside)):
        longest[end] = 1 + longest[inside[:, end]].max()
    return int(longest[-1])
