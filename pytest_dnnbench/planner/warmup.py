"""Warm-up counts: how many minibatches a replica of each stage forwards before its first backward.

What lives here: the counts and what follows from them. The schedule that they start is the
runtime's.
"""

from collections.abc import Sequence

from pytest_dnnbench.errors import PlanError


def warmup_counts(replicas: Sequence[int]) -> tuple[int, ...]:
    """The warm-up count of every stage, first stage first, for stages with these numbers of
    replicas.

    PipeDream's count (SOSP 2019, section 3.2) keeps the pipeline full: `ceil(workers from s on /
    R_s) - 1`. With replicas that wait for each other in an all-reduce, some shapes (1-3-1) deadlock
    on it: a stage must also feed every replica of the next one through its warm-up and one
    minibatch more, which takes `ceil(R_{s+1} (w_{s+1} + 1) / R_s)` of its own. The larger of the
    two counts. Each replica then keeps one version of its weights more than its count. Raises
    PlanError for a stage without replicas.
    """
    if not replicas or min(replicas) < 1:
        raise PlanError(
            f"replicas are {list(replicas)}: give every stage at least one, for instance 2-1"
        )
    counts: list[int] = []
    workers = fed = 0
    for count in reversed(replicas):
        workers += count
        counts.append(versions(count, workers, fed) - 1)
        fed = count * (counts[-1] + 1)
    return tuple(reversed(counts))


def versions(replicas: int, workers: int, fed: int) -> int:
    """Versions that a replica of a stage keeps: its warm-up count and one.

    `workers` counts those from this stage on, `fed` the minibatches in flight from the next stage
    on: its replicas times its versions, or 0 after the last stage.
    """
    full = -(-workers // replicas)
    return max(full, -(-fed // replicas) + 1)
