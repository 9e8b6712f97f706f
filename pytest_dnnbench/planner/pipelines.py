"""The dynamic program over splits and replicas for every stretch of the model at once.

What lives here: the best bottleneck of each stretch (start, end) on m workers from the costs of its
stages, and the way back from that time to the stages. Bandwidth and memory are in the costs: a
stage that is not allowed costs infinity. Source: PipeDream (SOSP 2019), section 3.1.

    best[m][end, start] = min of
        whole(m)[start, end]                                 one stage, m replicas
        best[m - 1][end, start]                              where workers may stay idle
        max(best[m - r][cut, start], last(m, r)[cut, end])   over all r and cuts
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_dnnbench.planner.states import Floats

Stretch = tuple[int, int, int]
"""Start state, end state, replicas."""


@dataclass(frozen=True, slots=True)
class StageCosts:
    """Seconds per minibatch as n x n tables; infinity where there is no such stage.

    whole(m)     at [start, end], of a stretch that is one stage on m replicas; has the start states
                 of the search only
    last(m, r)   at [cut, end], of a last stage on r of the m workers of the stretch
    """

    whole: Callable[[int], Floats]
    last: Callable[[int, int], Floats]
    replicas_at_most: int


def best_times(costs: StageCosts, workers: int, starts: int, *, fewer: bool) -> list[Floats]:
    """best[m] for m = 0..workers, for the first `starts` start states. best[0] is infinity.
    `fewer`: workers may stay idle."""
    best = [np.full_like(costs.whole(1).T[:, :starts], np.inf)]
    for m in range(1, workers + 1):
        best.append(best_time(costs, best, m, fewer=fewer))
    return best


def best_time(costs: StageCosts, best: Sequence[Floats], m: int, *, fewer: bool) -> Floats:
    """best[m] from the tables before it."""
    starts = best[0].shape[1]
    slowest = np.empty((len(best[0]), len(best[0])))
    now = np.ascontiguousarray(costs.whole(m).T[:, :starts])
    if fewer and m > 1:
        np.minimum(now, best[m - 1], out=now)
    for r in range(1, min(m - 1, costs.replicas_at_most) + 1):
        last = costs.last(m, r)
        if starts == 1:
            np.minimum(
                now, np.maximum(best[m - r], last, out=slowest).min(axis=0)[:, None], out=now
            )
            continue
        by_end = np.ascontiguousarray(last.T)
        for end in range(2, len(now)):
            _improve(now[end, : end - 1], best[m - r], by_end[end])
    return now


def _improve(now: Floats, front: Floats, last: Floats) -> None:
    """Takes the minimum of `now` (one end, all starts) over all cuts. Skips the cuts that are too
    early to help."""
    useful = np.flatnonzero(last < now.max(initial=0.0))
    if len(useful):
        cuts = slice(int(useful[0]), int(useful[-1]) + 1)
        np.minimum(now, np.maximum(front[cuts, : len(now)], last[cuts, None]).min(axis=0), out=now)


def stages_of(
    costs: StageCosts, best: Sequence[Floats], stretch: Stretch, *, fewer: bool
) -> tuple[Stretch, ...]:
    """The stages that give best[m][end, start] for the stretch (start, end, m). Of equals: those
    with the fewest workers, then the fewest stages, then the fewest replicas of the last stage,
    then the earliest cut."""
    start, end, m = stretch
    time_s = best[m][end, start]
    if fewer and m > 1 and best[m - 1][end, start] == time_s:
        return stages_of(costs, best, (start, end, m - 1), fewer=fewer)
    if costs.whole(m)[start, end] == time_s:
        return ((start, end, m),)
    cut, r = last_stage(costs, best, stretch, time_s)
    return (*stages_of(costs, best, (start, cut, m - r), fewer=fewer), (cut, end, r))


def last_stage(
    costs: StageCosts, best: Sequence[Floats], stretch: Stretch, time_s: float
) -> tuple[int, int]:
    """The cut before the last stage, and that stage's replicas, with which a stretch of several
    stages takes `time_s`."""
    start, end, m = stretch
    for r in range(1, min(m - 1, costs.replicas_at_most) + 1):
        reached = np.maximum(best[m - r][:end, start], costs.last(m, r)[:end, end]) == time_s
        if reached.any():
            return int(reached.argmax()), r
    raise AssertionError(f"no stages for {stretch} take {time_s}: the tables are of other costs")
