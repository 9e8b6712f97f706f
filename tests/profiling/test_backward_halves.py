"""A backward pass in two parts is timed beside a whole one, where there can be one."""

import pytest
import torch
from torch import nn

from pytest_dnnbench.planner.predict import even_plan
from pytest_dnnbench.planner.profile import Operator, Profile, halves_in
from pytest_dnnbench.rank.profiling.backward_halves import halves_facts
from tests.set_stopwatch import SetStopwatch


class Ticking(torch.autograd.Function):
    """Lets its input through; its backward pass takes a second."""

    clock = SetStopwatch()

    @staticmethod
    def forward(context: object, entering: torch.Tensor) -> torch.Tensor:
        return entering.clone()

    @staticmethod
    def backward(context: object, gradient: torch.Tensor) -> torch.Tensor:
        Ticking.clock.now += 1.0
        return gradient.clone()


def ticking(entering: torch.Tensor) -> torch.Tensor:
    """Its input, whose gradient comes a second late."""
    leaving: torch.Tensor = Ticking.apply(entering)  # type: ignore[no-untyped-call] # torch's gap
    return leaving


class Layers(nn.Module):
    """Two layers with something without weights between them, and before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Something, layer, something, layer, something."""
        return ticking(self.second(ticking(self.first(ticking(rows)))))


def test_the_parts_are_held_against_a_whole_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole pass takes three seconds, for three such functions. The first part passes through all
    of them; how much of it the second repeats is torch's affair."""
    monkeypatch.setattr(
        "pytest_dnnbench.rank.profiling.backward_halves.stopwatch", lambda _: Ticking.clock
    )
    model = Layers()
    first, second = halves_facts(model, torch.ones(2, 3))["halves"]
    assert first == 1.0
    assert second in (0.0, 1 / 3, 2 / 3, 1.0)
    assert all(parameter.grad is None for parameter in model.parameters())


class Unsplittable(nn.Module):
    """Its forward pass fails when it is asked for a gradient of its inputs."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Raises."""
        raise TypeError("no gradients here")


def test_a_model_of_tokens_begins_behind_its_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the layers alone; the embedding takes tokens again afterwards, with a gradient."""
    monkeypatch.setattr(
        "pytest_dnnbench.rank.profiling.backward_halves.stopwatch", lambda _: Ticking.clock
    )
    table, layers = nn.Embedding(4, 3), Layers()
    tokens = torch.ones(2, 3, dtype=torch.int64)
    of_tokens = halves_facts(nn.Sequential(table, layers), tokens)
    assert of_tokens == halves_facts(layers, torch.ones(2, 3, 3))
    assert of_tokens["halves"][0] == 1.0
    assert table(tokens).grad_fn is not None


class OneHot(nn.Linear):
    """Tokens without an embedding."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """A layer of ones and zeros."""
        return super().forward(nn.functional.one_hot(tokens, 3).to(self.weight.dtype))


def test_of_tokens_without_an_embedding_and_of_what_fails_nothing_is_known() -> None:
    assert halves_facts(OneHot(3, 2), torch.ones(2, 3, dtype=torch.int64)) == {}
    assert halves_facts(Unsplittable(), torch.ones(2, 3)) == {}


@pytest.mark.parametrize(
    ("value", "halves"),
    [
        ([0.4, 0.8], (0.4, 0.8)),
        (None, (0.5, 0.5)),
        ([0.4], (0.5, 0.5)),
        ([0.4, float("nan")], (0.5, 0.5)),
        ([-1.0, 2.0], (0.5, 0.5)),
        (["a", "b"], (0.5, 0.5)),
    ],
)
def test_a_plan_has_the_parts_of_its_profile(value: object, halves: tuple[float, float]) -> None:
    metadata = {} if value is None else {"halves": value}
    profile = Profile((Operator("a", "Linear", 1.0, 2.0, 8, 8),), (), metadata)
    assert halves_in(profile) == halves
    assert even_plan(profile, (1,)).halves == halves
