"""The bubble that an order of passes causes: worked examples, exact."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.bubbles import Pass, batch_seconds, idle_fractions
from pytest_dnnbench.planner.orders import orders_of
from pytest_dnnbench.planner.synchronous import RULES, Pipelines
from tests.planner.ticking import Job, ticks


def gpipe(stages: int, microbatches: int) -> list[list[Pass]]:
    """All forwards, then all backwards."""
    return [
        [Pass(stage, "F", m) for m in range(microbatches)]
        + [Pass(stage, "B", m) for m in range(microbatches)]
        for stage in range(stages)
    ]


def one_forward_one_backward(stages: int, microbatches: int) -> list[list[Pass]]:
    """1F1B: a stage runs as many forwards first as there are stages after it."""
    orders = []
    for stage in range(stages):
        ahead = stages - 1 - stage
        order = [Pass(stage, "F", m) for m in range(ahead)]
        for m in range(microbatches):
            if m + ahead < microbatches:
                order.append(Pass(stage, "F", m + ahead))
            order.append(Pass(stage, "B", m))
        orders.append(order)
    return orders


def even(stages: int, **seconds: int) -> dict[tuple[int, str], Fraction]:
    return {(s, kind): Fraction(each) for s in range(stages) for kind, each in seconds.items()}


@pytest.mark.parametrize("order", [gpipe, one_forward_one_backward])
@pytest.mark.parametrize(("stages", "microbatches"), [(2, 4), (3, 3), (4, 8), (5, 7)])
@pytest.mark.parametrize("backward", [1, 2])
def test_equal_stages_idle_for_the_fill_and_the_drain(
    order: object, stages: int, microbatches: int, backward: int
) -> None:
    orders = order(stages, microbatches)  # type: ignore[operator] # one of two functions
    idle = idle_fractions(orders, even(stages, F=1, B=backward))
    assert idle == [Fraction(stages - 1, microbatches + stages - 1)] * stages
    whole = batch_seconds(orders, even(stages, F=1, B=backward))
    assert whole == (microbatches + stages - 1) * (1 + backward)


def test_the_slowest_stage_of_uneven_ones_idles_least() -> None:
    seconds = even(2, F=1, B=2) | {(1, "F"): Fraction(2), (1, "B"): Fraction(4)}
    # rank 0   F F F . . . . . B . . . . B     rank 1 from 1 on: F F B B with twice the time
    idle = idle_fractions(gpipe(2, 2), seconds)
    #   0F0 0-1, 0F1 1-2, 1F0 1-3, 1F1 3-5, 1B0 5-9, 1B1 9-13, 0B0 9-11, 0B1 13-15: 15 long
    assert idle == [1 - Fraction(6, 15), 1 - Fraction(12, 15)]


def test_gradients_of_weights_fill_a_bubble() -> None:
    """Two stages, two microbatches. Rank 0 waits for 1I0 and then for 1I1; what rank 1 does for its
    weights comes after both."""
    orders = [
        [Pass(0, "F", 0), Pass(0, "F", 1), Pass(0, "B", 0), Pass(0, "B", 1)],
        [Pass(1, "F", 0), Pass(1, "I", 0), Pass(1, "F", 1), Pass(1, "I", 1)],
    ]
    orders[1] += [Pass(1, "W", 0), Pass(1, "W", 1)]
    seconds = even(2, F=1, I=1, W=1, B=2)
    # 0F0 0-1, 0F1 1-2, 1F0 1-2, 1I0 2-3, 1F1 3-4, 1I1 4-5, 0B0 3-5, 0B1 5-7, 1W 5-7: 7 long
    assert batch_seconds(orders, seconds) == 7
    assert idle_fractions(orders, seconds) == [Fraction(1, 7), Fraction(1, 7)]
    whole = [
        orders[0],
        [Pass(1, "B", p.microbatch) if p.kind == "I" else p for p in orders[1] if p.kind != "W"],
    ]
    assert batch_seconds(whole, seconds) == 9


def test_a_rank_that_is_done_early_begins_the_next_batch() -> None:
    """The last stages of a V are on rank 0, which waits for nobody at the end of a batch."""
    orders = [
        [Pass(0, "F", 0), Pass(3, "F", 0), Pass(3, "B", 0), Pass(0, "B", 0)],
        [Pass(1, "F", 0), Pass(2, "F", 0), Pass(2, "B", 0), Pass(1, "B", 0)],
    ]
    assert batch_seconds(orders, even(4, F=1, B=1)) == 8
    assert idle_fractions(orders, even(4, F=1, B=1)) == [Fraction(1, 2), Fraction(1, 2)]


def test_an_order_that_waits_in_a_circle_is_refused() -> None:
    with pytest.raises(PlanError, match="0B0, 1F0 wait for each other"):
        batch_seconds(
            [[Pass(0, "B", 0), Pass(0, "F", 0)], [Pass(1, "F", 0), Pass(1, "B", 0)]],
            even(2, F=1, B=1),
        )


def test_a_message_takes_its_time_beside_the_compute() -> None:
    """Two stages, two microbatches, every pass 1 long and every message 2: 0F0 0-1, on its way 1-3,
    1F0 3-4; 0F1 1-2, on its way 3-5, 1F1 5-6; 1B0 6-7, 7-9; 1B1 7-8, 9-11; 0B0 9-10, 0B1 11-12."""
    transfers = {(0, 1): 2, (1, 0): 2}
    assert batch_seconds(gpipe(2, 2), even(2, F=1, B=1), transfers) == 12
    assert batch_seconds(gpipe(2, 2), even(2, F=1, B=1), {(0, 1): 2}) == 9
    assert batch_seconds(gpipe(2, 2), even(2, F=1, B=1), {}) == 6


@given(
    st.sampled_from([*RULES]),
    st.integers(2, 3),
    st.integers(1, 2),
    st.data(),
)
def test_every_batch_takes_as_long_as_its_simulation(
    framework: str, ranks: int, rounds: int, data: st.DataObject
) -> None:
    of_each = RULES[framework].stages_per_rank or 2
    pipelines = Pipelines(
        framework, ranks, 1, of_each, ranks * rounds * max(1, RULES[framework].least)
    )
    orders = orders_of(pipelines, updates=True)
    length = st.integers(0, 4)
    seconds = {(s, k): data.draw(length) for s in range(pipelines.stages) for k in "FBIWU"}
    transfers = {
        pair: data.draw(length)
        for s in range(pipelines.stages - 1)
        for pair in ((s, s + 1), (s + 1, s))
    }
    batches = [played(orders, seconds, transfers) for _ in range(4)]
    ticks([job for batch in batches for job in batch])
    ends = [[ended(batch, rank) for rank in range(ranks)] for batch in batches]
    expected = max(last - before for before, last in zip(*ends[-2:], strict=True))
    assert batch_seconds(orders, seconds, transfers) == expected


def played(
    orders: list[list[Pass]],
    seconds: dict[tuple[int, str], int],
    transfers: dict[tuple[int, int], int],
) -> list[Job]:
    """A batch as jobs: a pass on its rank, and between ranks a message that carries its result."""
    passes = {
        each: Job(f"rank {rank}", seconds[each.stage, each.kind])
        for rank, order in enumerate(orders)
        for each in order
    }
    rank_of = {each.stage: rank for rank, order in enumerate(orders) for each in order}
    backward = {(each.stage, each.microbatch): each for each in passes if each.kind in "BI"}
    messages: list[Job] = []
    for each, job in passes.items():
        stage, microbatch = each.stage, each.microbatch
        if each.kind == "F":
            backward_job = passes[backward[stage, microbatch]]
            backward_job.after.append(job)
            waits, target = passes.get(Pass(stage + 1, "F", microbatch)), stage + 1
        elif each.kind in "BI" and stage:
            waits, target = passes[backward[stage - 1, microbatch]], stage - 1
        else:
            continue  # in its place of the order, and nothing else waits for it
        if waits is not None:
            link = f"link {rank_of[stage]}-{rank_of[target]}"
            messages.append(Job(link, transfers[stage, target], [job]))
            waits.after.append(messages[-1])
    return [*passes.values(), *messages]


def ended(batch: list[Job], rank: int) -> int:
    """When a rank ended a batch."""
    return max(job.ended or 0 for job in batch if job.resource == f"rank {rank}")
