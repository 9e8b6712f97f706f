"""The orders of passes beside those that torch makes, and what they keep."""

from collections.abc import Iterator
from typing import Any

import pytest

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.bubbles import Pass
from pytest_dnnbench.planner.layout import Layout
from pytest_dnnbench.planner.orders import ORDERED, flushing_orders, in_flight, orders_of
from pytest_dnnbench.planner.schedule import Schedule
from pytest_dnnbench.planner.synchronous import RULES, Pipelines

SEVERAL_STAGES = ("interleaved", "bfs", "zero-bubble")
ON_A_V = ("zbv", "dualpipev")


def written(orders: list[list[Pass]]) -> list[str]:
    return [" ".join(map(str, order)) for order in orders]


def test_one_stage_per_rank_follows_the_drawing() -> None:
    assert written(orders_of(Pipelines("gpipe", 2, 1, 1, 3))) == [
        "0F0 0F1 0F2 0B0 0B1 0B2",
        "1F0 1F1 1F2 1B0 1B1 1B2",
    ]
    assert written(orders_of(Pipelines("1f1b", 3, 1, 1, 3))) == [
        "0F0 0F1 0F2 0B0 0B1 0B2",
        "1F0 1F1 1B0 1F2 1B1 1B2",
        "2F0 2B0 2F1 2B1 2F2 2B2",
    ]


def test_replicas_with_flushes_take_turns_and_update_together() -> None:
    orders = flushing_orders(Schedule("pipedream-flush", Layout((2, 1)), 4))
    assert written(orders) == [
        "0F0 0F2 0B0 0B2 0U0",
        "0F1 0F3 0B1 0B3 0U1",
        "1F0 1B0 1F1 1B1 1F2 1B2 1F3 1B3 1U0",
    ]


@pytest.mark.parametrize(
    ("framework", "ranks", "of_each"),
    [
        *((name, *size) for name in SEVERAL_STAGES for size in ((2, 2), (2, 3), (3, 2), (4, 2))),
        *((name, ranks, 2) for name in ON_A_V for ranks in range(2, 7)),
    ],
)
def test_several_stages_per_rank_run_in_torchs_order(
    framework: str, ranks: int, of_each: int
) -> None:
    torch = pytest.importorskip("torch")
    schedules = pytest.importorskip("torch.distributed.pipelining").schedules
    some = Pipelines(framework, ranks, 1, of_each, 3 * ranks)

    class Stage:
        """What torch's schedules ask of a stage before they run."""

        submod, device = torch.nn.Identity(), torch.device("cpu")
        has_backward, is_first, is_last = True, False, False
        group_size, group_rank, num_stages = ranks, 0, ranks * of_each

        def __init__(self, number: int) -> None:
            self.stage_index = number
            self.stage_index_to_group_rank = {n: some.place_of(n) for n in range(self.num_stages)}

    made: Any = getattr(schedules, RULES[framework].torch_class)
    counts = [ranks, 2 * ranks, 3 * ranks]
    if framework in ON_A_V:
        counts += [2 * ranks - 1, 2 * ranks + 1, 3 * ranks + 1]
    for microbatches in counts:
        if microbatches < RULES[framework].least * ranks:
            continue
        theirs = made([Stage(n) for n in some.stages_of(0)], microbatches)
        expected = [
            " ".join(map(str, _passes(theirs.pipeline_order[rank]))) for rank in range(ranks)
        ]
        ours = orders_of(Pipelines(framework, ranks, 1, of_each, microbatches))
        assert written(ours) == expected


def _passes(actions: Any) -> Iterator[Any]:
    """One by one; torch may write two down as one, and runs them in turn."""
    for action in actions:
        if action is not None:
            yield from getattr(action, "sub_actions", None) or (action,)


@pytest.mark.parametrize("framework", ORDERED)
def test_every_microbatch_passes_every_stage_forward_and_back(framework: str) -> None:
    each = RULES[framework].stages_per_rank or 2
    pipelines = Pipelines(framework, 4, 1, each, 1 if framework == "mp" else 8)
    passes = [each for order in orders_of(pipelines, updates=True) for each in order]
    # A whole backward pass gives what two halves give.
    parts = [part for each in passes for part in _parts(each)]
    expected = {
        Pass(stage, kind, microbatch)
        for stage in range(pipelines.stages)
        for kind in ("F", "I", "W")
        for microbatch in range(pipelines.microbatches)
    } | {Pass(stage, "U", 0) for stage in range(pipelines.stages)}
    assert set(parts) == expected
    assert len(parts) == len(expected)


def _parts(each: Pass) -> list[Pass]:
    return [each._replace(kind="I"), each._replace(kind="W")] if each.kind == "B" else [each]


def test_what_a_rank_keeps_follows_from_its_order() -> None:
    def kept(framework: str, of_each: int = 1) -> list[dict[int, int]]:
        return [in_flight(order) for order in orders_of(Pipelines(framework, 3, 1, of_each, 6))]

    assert kept("gpipe") == [{0: 6}, {1: 6}, {2: 6}]
    assert kept("1f1b") == [{0: 3}, {1: 2}, {2: 1}]
    assert kept("zero-bubble", 2)[2][5] == 3, "until the gradients of the weights are there"


def test_every_schedule_has_an_order_where_it_has_enough_microbatches() -> None:
    assert set(RULES) == set(ORDERED)
    with pytest.raises(PlanError):
        Pipelines("1f1b", 4, 1, 1, 3)
