"""Times land on the operators that spent them: with a clock that only the operators move, to the
tick."""

from typing import Any

import pytest
import torch
from torch import nn

from pytest_dnnbench.rank.profiling.marked_pass import MarkedPass, whole_pass
from pytest_dnnbench.rank.profiling.operator_graph import trace


class Ticks:
    """A stopwatch that stands still unless an operator below moves it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.settled = 0

    def mark(self) -> float:
        return self.now

    def settle(self) -> None:
        self.settled += 1

    def seconds(self, start: float, end: float) -> float:
        return end - start


class Spend(torch.autograd.Function):
    """Multiplies by 2, and moves the clock by so much forward and so much backward."""

    @staticmethod
    def forward(
        ctx: Any, value: torch.Tensor, ticks: Ticks, forward_s: float, backward_s: float
    ) -> torch.Tensor:
        ctx.ticks, ctx.backward_s = ticks, backward_s
        ticks.now += forward_s
        return value * 2

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        ctx.ticks.now += ctx.backward_s
        return gradients[0] * 2, None, None, None


class Spender(nn.Module):
    """An operator of known cost, with two autograd nodes around it that cost nothing."""

    def __init__(self, ticks: Ticks, forward_s: float, backward_s: float) -> None:
        super().__init__()
        self.ticks, self.cost = [ticks], (forward_s, backward_s)
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        spent: torch.Tensor = Spend.apply(value * self.weight, self.ticks[0], *self.cost)  # type: ignore[no-untyped-call] # torch's gap
        return spent + 1

    def __deepcopy__(self, memo: dict[int, Any]) -> "Spender":
        return Spender(Ticks(), *self.cost)


class Diamond(nn.Module):
    """first -> (left, right) -> joined -> last, with a way around it all."""

    def __init__(self, ticks: Ticks) -> None:
        super().__init__()
        self.first = Spender(ticks, 1, 10)
        self.left = Spender(ticks, 2, 20)
        self.right = Spender(ticks, 4, 40)
        self.same = nn.Identity()
        self.last = Spender(ticks, 8, 80)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = self.first(images)
        joined = torch.cat([self.left(first), self.right(first), first], 1)
        result: torch.Tensor = self.last(self.same(joined))
        return result


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


def test_each_operator_gets_its_own_forward_and_backward_time(ticks: Ticks) -> None:
    images = torch.ones(2, 3)
    marked = MarkedPass(trace(Diamond(ticks), images), images, ticks).run()
    names = ("first", "left", "right", "cat", "same", "last")
    assert {name: marked.forward_s[name] for name in names} == dict(
        zip(names, (1, 2, 4, 0, 0, 8), strict=True)
    )
    assert {name: marked.backward_s[name] for name in names} == dict(
        zip(names, (10, 20, 40, 0, 0, 80), strict=True)
    )
    assert ticks.settled == 1


def test_the_parts_sum_up_to_the_whole(ticks: Ticks) -> None:
    images = torch.ones(2, 3)
    model = Diamond(ticks)
    marked = MarkedPass(trace(model, images), images, ticks).run()
    assert (
        sum(marked.forward_s.values()) + sum(marked.backward_s.values())
        == whole_pass(model, images, ticks)
        == 165
    )


def test_bytes_are_those_of_the_results(ticks: Ticks) -> None:
    images = torch.ones(2, 3)
    marked = MarkedPass(trace(Diamond(ticks), images), images, ticks).run()
    assert marked.result_bytes["first"] == 2 * 3 * 4
    assert marked.result_bytes["cat"] == 3 * 2 * 3 * 4


def test_a_pass_leaves_the_gradients_of_a_plain_one(ticks: Ticks) -> None:
    images = torch.ones(2, 3)
    model = Diamond(ticks)
    whole_pass(model, images, ticks)
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    MarkedPass(trace(model, images), images, ticks).run()
    assert all(torch.equal(p.grad, expected[name]) for name, p in model.named_parameters())  # type: ignore[arg-type] # None fails too


class Scaled(nn.Module):
    """Works on a parameter by itself, and on an item of a tuple, before its operators."""

    def __init__(self, ticks: Ticks) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.first = Spender(ticks, 1, 10)
        self.last = Spender(ticks, 2, 20)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        left, right = self.first(images).chunk(2)
        result: torch.Tensor = self.last(left + right * self.scale.exp())
        return result


def test_no_time_is_lost_between_operators(ticks: Ticks) -> None:
    images = torch.ones(2, 3)
    model = Scaled(ticks)
    graph = trace(model, images)
    marked = MarkedPass(graph, images, ticks).run()
    assert set(marked.backward_s) <= set(graph.operators)
    assert sum(marked.backward_s.values()) == 30
    assert (marked.backward_s["first"], marked.backward_s["last"]) == (10, 20)
