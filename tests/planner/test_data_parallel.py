"""The step of bucketed data parallelism: worked examples, and every model beside a simulation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_dnnbench.planner.data_parallel import (
    BUCKET_BYTES,
    Bucket,
    buckets_of,
    data_parallel_step,
)
from pytest_dnnbench.planner.fabric import FREE, CollectiveCost
from pytest_dnnbench.planner.profile import Operator
from tests.planner.ticking import Job, ticks

A_BYTE_A_SECOND = CollectiveCost(0.0, 1.0)


def model(*operators: tuple[float, float, float]) -> list[Operator]:
    """Operators by forward seconds, backward seconds and bytes of weights."""
    return [
        Operator(f"n{place}", "Linear", forward_s, backward_s, 0, size)
        for place, (forward_s, backward_s, size) in enumerate(operators)
    ]


def test_what_the_backward_pass_hides_costs_nothing() -> None:
    # B2 1-3, B1 3-9; the bucket of n2 is on the link 2 seconds from 3 on, that of n1 from 9 on.
    operators = model((1, 6, 1), (0, 2, 2))
    step = data_parallel_step(operators, A_BYTE_A_SECOND, bucket_bytes=1, update_s=0.5)
    assert (step.compute_s, step.exposed_s, step.update_s, step.step_s) == (9, 1, 0.5, 10.5)


def test_what_follows_a_long_exchange_waits_for_it() -> None:
    # The backward pass ends at 4; the link is busy 1-6 with n2's gradients, then 6-7 with n1's.
    operators = model((0, 3, 1), (0, 1, 5))
    assert data_parallel_step(operators, A_BYTE_A_SECOND, bucket_bytes=1).exposed_s == 3


def test_one_rank_exchanges_nothing() -> None:
    assert data_parallel_step(model((1, 2, 100)), FREE).step_s == 3


def test_a_bucket_closes_when_it_is_full_and_the_last_one_when_the_pass_ends() -> None:
    operators = model((0, 1, 4), (0, 1, 0), (0, 1, 3), (0, 1, 9), (0, 1, 2))
    assert buckets_of(operators, 10) == [Bucket(2, 11), Bucket(5, 7)]
    assert buckets_of(model((0, 1, 0)), 10) == []


def test_buckets_are_torchs_own() -> None:
    """Of operators with one weight each, where torch's rule by weight is ours by operator."""
    torch = pytest.importorskip("torch")
    sizes = [3, 9, 40, 1, 1, 7, 30, 2, 12, 5, 5, 5]
    weights = [torch.zeros(size << 18) for size in reversed(sizes)]
    operators = model(*((0, 1, size << 20) for size in sizes))
    for size, limits in (
        (BUCKET_BYTES, [torch.distributed._DEFAULT_FIRST_BUCKET_BYTES, BUCKET_BYTES]),
        (10 << 20, [10 << 20]),
    ):
        places, _ = torch.distributed._compute_bucket_assignment_by_size(weights, limits)
        theirs = [sum(weights[place].nbytes for place in bucket) for bucket in places]
        assert [bucket.size for bucket in buckets_of(operators, size)] == theirs


figures = st.tuples(*[st.integers(0, 6)] * 3)


@given(st.lists(figures, min_size=1, max_size=8), st.integers(1, 9), st.integers(0, 3))
def test_every_step_takes_as_long_as_its_simulation(
    operators: list[tuple[int, int, int]], bucket_bytes: int, fixed_s: int
) -> None:
    nodes = model(*operators)
    cost = CollectiveCost(fixed_s, 1.0)
    step = data_parallel_step(nodes, cost, bucket_bytes=bucket_bytes)
    jobs = [Job("compute", forward) for forward, _, _ in operators]
    exchanges: list[Job] = []
    waiting = 0
    for place, (_, backward, size) in reversed(list(enumerate(operators))):
        jobs.append(Job("compute", backward))
        waiting += size
        if waiting >= bucket_bytes or (waiting and place == 0):
            exchanges.append(Job("link", fixed_s + waiting, [jobs[-1]]))
            waiting = 0
    assert step.step_s == ticks(jobs + exchanges)
