"""Layouts: texts that stand for one, and where each rank and minibatch is."""

import pytest

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.layout import Layout, layout_of


@pytest.mark.parametrize(
    ("text", "ranks", "replicas"),
    [("2", 4, (2, 2)), ("1", 3, (3,)), ("2-1", 3, (2, 1)), ("1-3-1", 5, (1, 3, 1))],
)
def test_stages_are_a_number_or_replicas(text: str, ranks: int, replicas: tuple[int, ...]) -> None:
    assert layout_of(text, ranks).replicas == replicas


@pytest.mark.parametrize(
    ("text", "ranks", "message"),
    [
        ("two", 2, "write a number of stages"),
        ("0", 2, "write a number of stages"),
        ("2-", 2, "write a number of stages"),
        ("3", 4, "do not divide into 3 stages"),
        ("2-1", 4, "take 3 ranks, not 4"),
    ],
)
def test_stages_that_do_not_fit_are_refused(text: str, ranks: int, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        layout_of(text, ranks)


def test_ranks_are_numbered_stage_by_stage_and_replicas_take_turns() -> None:
    layout = Layout((2, 1, 3))
    assert [layout.place(rank) for rank in range(6)] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (2, 0),
        (2, 1),
        (2, 2),
    ]
    assert [layout.route(2, minibatch) for minibatch in range(4)] == [3, 4, 5, 3]
    assert layout.links() == [(0, 2), (1, 2), (2, 3), (2, 4), (2, 5)]


def test_a_layout_that_cannot_be_is_refused() -> None:
    with pytest.raises(PlanError, match="at least one"):
        Layout((2, 0))
    with pytest.raises(PlanError, match="3 ranks, but this is rank 3"):
        Layout((2, 1)).place(3)
