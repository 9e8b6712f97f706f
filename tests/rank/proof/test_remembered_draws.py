"""A model that is made again draws the same numbers as without a memory, whatever its factory does
between two draws."""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from pytest_dnnbench.rank.proof.operator_mode import Arguments, Named, OperatorMode, name_of
from pytest_dnnbench.rank.proof.remembered_draws import RememberedDraws
from pytest_dnnbench.rank.workloads.image_models import seed

Tensors = list[torch.Tensor]


def plain() -> Tensors:
    return [*nn.Sequential(nn.Linear(40, 30), nn.Conv2d(3, 4, 3)).parameters()]


def initialised_twice() -> Tensors:
    layer = nn.Conv2d(3, 8, 3)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    nn.init.trunc_normal_(layer.weight)
    return [*layer.parameters()]


def draws_of_many_kinds() -> Tensors:
    made = [torch.randn(5), torch.empty(4).uniform_(2, 3), torch.randperm(9), torch.rand(3)]
    return [*made, torch.empty(6).exponential_(), torch.full((2,), random.random()), *plain()]


def saves_the_state_and_sets_it_back() -> Tensors:
    before = torch.get_rng_state()
    first = torch.empty(20).normal_()
    middle = torch.get_rng_state()
    second = torch.empty(20).normal_()
    torch.set_rng_state(before)
    third = torch.empty(7).normal_()
    torch.set_rng_state(middle)
    return [first, second, third, torch.empty(20).normal_()]


def forks_and_seeds() -> Tensors:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        inner = plain()
    return [*inner, *plain()]


def by_a_generator_of_its_own() -> Tensors:
    own = torch.Generator().manual_seed(3)
    return [torch.empty(9).normal_(generator=own), torch.empty(9).normal_(), *plain()]


def in_rows_and_columns() -> Tensors:
    return [torch.empty(20, 30).t().normal_(), torch.empty(30, 20).normal_()]


def made(
    factory: Callable[[], Tensors], first: int, draws: AbstractContextManager[object]
) -> Tensors:
    seed(first)
    with draws:
        tensors = factory()
    return [*(each.detach().clone() for each in tensors), torch.get_rng_state()]


@pytest.mark.parametrize("room", [0, 12_000, 1 << 30])
@pytest.mark.parametrize(
    "factory",
    [
        plain,
        initialised_twice,
        draws_of_many_kinds,
        saves_the_state_and_sets_it_back,
        forks_and_seeds,
        by_a_generator_of_its_own,
        in_rows_and_columns,
    ],
)
def test_remembered_numbers_are_those_that_are_drawn(
    factory: Callable[[], Tensors], room: int
) -> None:
    draws = RememberedDraws(room)
    for first in (1, 1, 2, 1, 2):
        expected = made(factory, first, nullcontext())
        got = made(factory, first, draws)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_a_second_model_draws_nothing() -> None:
    draws, noted = RememberedDraws(1 << 20), Draws()
    first = made(initialised_twice, 1, draws)
    with noted:
        again = made(initialised_twice, 1, draws)
    assert not noted.names
    assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))
    with noted:
        made(initialised_twice, 2, draws)
    assert set(noted.names) == {"uniform_", "normal_"}


@pytest.mark.parametrize(
    ("more_bytes", "drawn"), [(0, ["uniform_"]), (-1, ["normal_", "uniform_"])]
)
def test_the_room_is_for_numbers_and_the_states_before_and_after_them(
    more_bytes: int, drawn: list[str]
) -> None:
    """A model of many small tensors took ten times the room, by states that were not counted."""

    def two_draws() -> Tensors:
        return [torch.empty(8).normal_(), torch.empty(8).uniform_()]

    state = torch.get_rng_state()
    draws, noted = RememberedDraws(8 * 4 + 2 * state.nbytes + more_bytes), Draws()
    made(two_draws, 1, draws)
    with noted:
        made(two_draws, 1, draws)
    assert noted.names == drawn


class Draws(OperatorMode):
    """Notes which numbers are drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def run(self, operator: Any, args: Arguments, named: Named) -> Any:
        """Runs an operator."""
        if torch.Tag.nondeterministic_seeded in operator.tags:
            self.names.append(name_of(operator))
        return operator(*args, **named)
