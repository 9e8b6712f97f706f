"""A model without operators: it uses every weight once, and knows how long it took itself."""

from itertools import pairwise
from time import thread_time

import torch
from torch import nn

from pytest_dnnbench.rank.bare_model import BareModel


class Tied(nn.Module):
    """A root with a weight of its own, a block inside another, a frozen weight, and a weight that
    two parts have."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 3)
        self.block = nn.ModuleDict({"inner": nn.Linear(3, 3), "norm": nn.LayerNorm(3)})
        self.head = nn.Linear(3, 4, bias=False)
        self.head.weight = self.table.weight
        self.block["norm"].bias.requires_grad = False

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Never called: it has no operators any more."""
        raise AssertionError("an operator ran")


def bare() -> tuple[Tied, BareModel]:
    module = Tied()
    return module, BareModel(module, ["block", "block.inner"])


def test_every_weight_that_is_trained_gets_a_gradient_of_ones() -> None:
    module, _ = bare()
    module(torch.ones(1, 1)).backward()
    for name, parameter in module.named_parameters():
        if name == "block.norm.bias":
            assert parameter.grad is None
        else:
            assert parameter.grad is not None
            assert torch.equal(parameter.grad, torch.ones_like(parameter)), name


def test_each_part_runs_once_in_the_order_of_the_blocks() -> None:
    module, _ = bare()
    order: list[str] = []
    for name in ("", "block", "block.inner"):
        module.get_submodule(name).register_forward_pre_hook(
            lambda *_, name=name: order.append(name)
        )
    module(torch.ones(1, 1))
    assert order == ["", "block", "block.inner"]


def test_it_knows_the_time_of_its_own_parts() -> None:
    ticks = iter(range(100))
    module, model = bare()
    model.clock = lambda: next(ticks)
    module(torch.ones(1, 1)).backward()
    # Three parts, each with a forward and a backward pass between two readings of the clock.
    assert model.own_s == 6
    assert next(ticks) == 12


PACE = [("table.weight", 3.0), ("block.norm.weight", 0.0), ("block.inner.bias", 5.0)]


def test_gradients_come_in_the_order_and_at_the_pace_that_is_given() -> None:
    """The clock ticks when it is read: a part computes until its seconds are over."""
    ticks = iter(range(1000))
    module = Tied()
    model = BareModel(module, [], PACE)
    model.clock = lambda: float(next(ticks))
    came: list[tuple[str, float]] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call] # torch's gap
                lambda _, name=name: came.append((name, model.own_s))
            )
    number = module(torch.ones(1, 1))
    forward_s = model.own_s
    number.backward()
    assert [name for name, _ in came] == [name for name, _ in PACE], "the others never come"
    moments = [forward_s, *(moment for _, moment in came)]
    spent = [now - before for before, now in pairwise(moments)]
    # Two readings around each part, and one more that finds that its time is over.
    assert spent == [max(seconds, 1.0) + 1.0 for _, seconds in PACE]
    assert all(
        torch.equal(module.get_parameter(name).grad, torch.ones_like(module.get_parameter(name)))  # type: ignore[arg-type] # they came
        for name, _ in PACE
    )


def test_a_paced_model_counts_its_threads_own_time() -> None:
    """What another thread takes of the core is the framework's."""
    assert BareModel(Tied(), [], PACE).clock is thread_time
    assert BareModel(Tied(), []).clock is not thread_time
