"""Warm-up counts: how many minibatches a replica of each stage forwards before its first backward.

What lives here: the counts, and the versions that follow from them. Not here: the schedule
(schedule.py).
"""

from collections.abc import Sequence

from pytest_dnnbench.errors import PlanError


def warmup_counts(replicas: Sequence[int]) -> tuple[int, ...]:
    """The warm-up count of every stage, first stage first, from the replicas R_s of each stage.

    PipeDream's count (SOSP 2019, section 3.2) keeps the pipeline full: `ceil(workers from s on /
    R_s) - 1`. It makes some shapes (1-3-1) deadlock when replicas wait for each other in an
    all-reduce: a stage must also feed every replica of the next stage through that replica's
    warm-up and one minibatch more, which takes `ceil(R_{s+1} (w_{s+1} + 1) / R_s)` minibatches per
    replica. The count is the larger of the two. Each replica then keeps one version of its weights
    more than its count. Raises PlanError for a stage without replicas.
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
    """The versions that a replica of a stage keeps: one more than its warm-up count.

    `workers` counts the workers from this stage on. `fed` counts the minibatches in flight at the
    next stage, its replicas times its versions; 0 after the last stage.
    """
    full = -(-workers // replicas)
    return max(full, -(-fed // replicas) + 1)
