"""The step of data parallelism that exchanges gradients bucket by bucket during the backward pass,
as DistributedDataParallel does (Li et al., "PyTorch Distributed", VLDB 2020, section 3.2).

    compute   F F F F B4 B3 B2 B1 ........ U       bucket 1 holds the gradients of 4 and 3
    link                    |--1--||--2--|         bucket 2 those of 2 and 1

A bucket is sent when its last gradient is there and the bucket before it has been sent. So the last
of the buckets i = 1..n, ready at r_i of the backward pass and c_i long, is there after

    max over i of (r_i + c_i + c_(i+1) + ... + c_n)

Not here: what an all-reduce costs (fabric.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_dnnbench.planner.fabric import CollectiveCost
from pytest_dnnbench.planner.profile import Operator

BUCKET_BYTES = 25 * 2**20
"""torch's default, of all buckets but the first."""

FIRST_BUCKET_BYTES = 2**20
"""Of the first one, where the size of the others is torch's default: the sooner it is sent."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """Predicted seconds of one step: forward and backward pass; the communication that no compute
    hides; the update of the weights."""

    compute_s: float
    exposed_s: float
    update_s: float

    @property
    def step_s(self) -> float:
        """All of it."""
        return self.compute_s + self.exposed_s + self.update_s


@dataclass(frozen=True, slots=True)
class Bucket:
    """Gradients that are exchanged together: their bytes, and the seconds of the backward pass
    after which they are all there."""

    ready_s: float
    size: float


def buckets_of(operators: Sequence[Operator], bucket_bytes: float) -> list[Bucket]:
    """The buckets of a model whose operators run in this order, the last operator's gradients
    first. A bucket is full when it holds `bucket_bytes` or more, by default FIRST_BUCKET_BYTES in
    the first one."""
    buckets: list[Bucket] = []
    limit = FIRST_BUCKET_BYTES if bucket_bytes == BUCKET_BYTES else bucket_bytes
    passed_s = size = 0.0
    for operator in reversed(operators):
        passed_s += operator.backward_s
        size += operator.parameter_bytes
        if size >= limit:
            buckets.append(Bucket(passed_s, size))
            size, limit = 0.0, bucket_bytes
    if size:
        buckets.append(Bucket(passed_s, size))
    return buckets


def data_parallel_step(
    operators: Sequence[Operator],
    all_reduce: CollectiveCost,
    *,
    update_s: float = 0.0,
    bucket_bytes: float = BUCKET_BYTES,
) -> StepTime:
    """One step of every rank on a minibatch of its own. `operators` are in the order of the forward
    pass."""
    forward_s = sum(operator.forward_s for operator in operators)
    backward_s = sum(operator.backward_s for operator in operators)
    left_s = last_s = 0.0
    for bucket in reversed(buckets_of(operators, bucket_bytes)):
        left_s += all_reduce.seconds(bucket.size)
        last_s = max(last_s, bucket.ready_s + left_s)
    exposed_s = max(0.0, last_s - backward_s)
    return StepTime(forward_s + backward_s, exposed_s, update_s)
