"""Bounds from measured rounding: they hold what rounding really does, they follow the conditioning,
and they stay far below a wrong step."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pytest_dnnbench.case import Case
from pytest_dnnbench.messages import RunRequest
from pytest_dnnbench.rank.proof import rounding
from pytest_dnnbench.rank.proof.arithmetic import BFLOAT16, FLOAT32, FLOAT64
from pytest_dnnbench.rank.proof.data_parallel_reference import Reference
from pytest_dnnbench.rank.proof.distance import PIECE, distance, largest
from pytest_dnnbench.rank.proof.evaluation import evaluated, evaluation_bounds
from pytest_dnnbench.rank.proof.randomness import NoRandomness
from pytest_dnnbench.rank.proof.rounding import EveryOperatorRounds
from pytest_dnnbench.rank.workloads.image_models import widen
from pytest_dnnbench.rank.workloads.image_workload import ImageWorkload
from tests.awkward_models import Base, Deep, Largest, Transformer

IMAGES = ImageWorkload("tests.awkward_models:Base", 28)
REQUEST = RunRequest(Case("single", "m", 1, "train"), "", "m", 1, 0)


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(8, 1, 28, 28, generator=generator)
    return images, torch.randint(10, (8,), generator=generator)


@pytest.mark.parametrize("make", [Base, Deep, Largest, Transformer])
@pytest.mark.parametrize("seed", range(3))
def test_what_single_precision_does_is_within_its_bound_and_not_far_below(
    make: Callable[[], nn.Module], seed: int
) -> None:
    torch.manual_seed(seed)
    narrow, wide = make(), make()
    wide.load_state_dict(narrow.state_dict())
    images, labels = batch(seed)
    got = Reference(IMAGES, narrow, REQUEST).differentiate([(images, labels)])
    reference = Reference(IMAGES, widen(wide), REQUEST)
    shards = [(images.double(), labels)]
    expected = reference.differentiate(shards)
    bounds = reference.bounds(shards, 1, expected, FLOAT32).gradients
    parts = [
        distance(got.gradients[name], tensor) / bounds[name]
        for name, tensor in expected.gradients.items()
    ]
    assert max(parts) <= 1
    assert max(parts) > 1e-3, "the bound says nothing if it is a thousand times too wide"


def test_the_reference_is_left_as_it_was() -> None:
    model = widen(Base())
    before = {name: each.clone() for name, each in model.state_dict().items()}
    reference, shards = Reference(IMAGES, model, REQUEST), [(batch(0)[0].double(), batch(0)[1])]
    expected = reference.differentiate(shards)
    reference.bounds(shards, 1, expected)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    again = reference.differentiate(shards)
    assert all(
        torch.equal(again.gradients[name], each) for name, each in expected.gradients.items()
    )


class Ties(nn.Module):
    """Logits of ReLUs whose inputs, in float64, lie above zero by less than float32 could tell."""

    def __init__(self, above: float = 2.0**-26) -> None:
        super().__init__()
        ones = [torch.full((1,), 1.0 + above, dtype=torch.float64) for _ in range(16)]
        self.weights = nn.ParameterList(ones)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, 16) logits, the same for every image."""
        logits = torch.cat([torch.relu(weight - 1.0) for weight in self.weights])
        return logits.expand(len(images), 16)


def test_a_tie_that_rounding_may_turn_is_in_the_bound_wherever_the_noise_fell() -> None:
    """mobilenet_v2 was refused for one ReLU6: a single moved pass misses half of such ties."""
    reference = Reference(IMAGES, Ties(), REQUEST)
    shards = [(batch(0)[0].double(), batch(0)[1])]
    expected = reference.differentiate(shards)
    bounds = reference.bounds(shards, 1, expected, FLOAT32).gradients
    jumps = {name: largest(gradient) for name, gradient in expected.gradients.items()}
    assert all(jump > 0.01 for jump in jumps.values())
    assert all(jump <= bounds[name] <= 8 * jump for name, jump in jumps.items())


def test_no_tie_that_rounding_cannot_turn_is_in_the_bound() -> None:
    reference = Reference(IMAGES, Ties(above=64 * FLOAT32.unit), REQUEST)
    shards = [(batch(0)[0].double(), batch(0)[1])]
    expected = reference.differentiate(shards)
    bounds = reference.bounds(shards, 1, expected, FLOAT32).gradients
    jumps = {name: largest(gradient) for name, gradient in expected.gradients.items()}
    assert all(bounds[name] < 1e-3 * jump for name, jump in jumps.items())


class Cancelling(nn.Module):
    """A difference of large numbers."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.size = size

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """The input, after a detour."""
        return (value + self.size) - self.size


def test_a_bound_follows_the_conditioning() -> None:
    value = batch(0)[0].double()
    bounds = [
        evaluation_bounds(IMAGES, model, value, evaluated(IMAGES, model, value))["logits"]
        for model in (Cancelling(0.0), Cancelling(1e6))
    ]
    assert 1e4 < bounds[1] / bounds[0] < 1e7
    assert bounds[1] == pytest.approx(FLOAT64.factor * 1e6 * FLOAT64.unit, rel=2)


def test_coarser_types_have_wider_bounds_in_proportion() -> None:
    model, value = widen(Base()).eval(), batch(0)[0].double()
    logits = evaluated(IMAGES, model, value)
    single = evaluation_bounds(IMAGES, model, value, logits, FLOAT32)["logits"] / FLOAT32.factor
    brain = evaluation_bounds(IMAGES, model, value, logits, BFLOAT16)["logits"] / BFLOAT16.factor
    assert brain / single == pytest.approx(BFLOAT16.unit / FLOAT32.unit, rel=0.2)


@pytest.mark.parametrize(
    ("draw", "mean"),
    [
        (lambda: torch.rand(3), 0.5),
        (lambda: torch.randn(3), 0.0),
        (lambda: torch.ones(3).bernoulli_(0.25), 0.25),
        (lambda: torch.empty(3).uniform_(2, 4), 3.0),
        (lambda: torch.empty(3).normal_(1.5, 2), 1.5),
        (lambda: torch.empty(3).exponential_(4.0), 0.25),
        (lambda: torch.nn.functional.dropout(torch.full((3,), 7.0), 0.9), 7.0),
        (lambda: torch.randint(0, 11, (3,)).float(), 5.0),
        (lambda: torch.randperm(3).float() * 0 + 2, 2.0),
    ],
)
def test_a_random_number_is_its_mean(draw: Callable[[], torch.Tensor], mean: float) -> None:
    with NoRandomness():
        assert torch.allclose(draw(), torch.full((3,), mean))


def test_infinite_elements_are_not_moved() -> None:
    mask = torch.tensor([0.0, float("-inf"), 1.0, float("inf")]).double().repeat(50)
    moved = mask.clone()
    EveryOperatorRounds(FLOAT64).move(moved)
    assert torch.equal(moved.isinf(), mask.isinf())
    assert torch.equal(moved[mask.isinf()], mask[mask.isinf()])
    assert 0 < distance(moved[mask == 1], mask[mask == 1]) <= FLOAT64.moved * FLOAT64.unit


@pytest.mark.parametrize("further", [0.0, 1e-3])
def test_a_tensor_is_moved_alike_whether_it_is_asked_for_infinite_elements_or_not(
    monkeypatch: pytest.MonkeyPatch, further: float
) -> None:
    """A GPU is not asked: the host would wait for each answer."""
    asked, unasked = (torch.linspace(-3, 3, 101, dtype=torch.float64) for _ in range(2))
    EveryOperatorRounds(FLOAT64, seed=5).move(asked, further)
    monkeypatch.setattr(rounding, "_is_finite", lambda tensor: False)
    EveryOperatorRounds(FLOAT64, seed=5).move(unasked, further)
    assert torch.equal(asked, unasked)


@pytest.mark.parametrize("further", [0.0, 1e-3])
def test_a_large_tensor_is_moved_piece_by_piece_however_it_lies(further: float) -> None:
    plain = torch.randn(3, 2 * PIECE, dtype=torch.float64)
    by_columns = plain.t().contiguous().t()
    moved = plain.clone()
    for tensor in (moved, by_columns):
        EveryOperatorRounds(FLOAT32, seed=3).move(tensor, further)
    assert torch.equal(moved, by_columns)
    way = (moved - plain) / (FLOAT32.moved * (FLOAT32.unit * plain.abs() + further))
    # Up to 2 ** -52 of a number of about 4 is lost when it is moved.
    assert 0.999 < float(way.abs().max()) < 1.001
    stretches = way.view(6, PIECE)
    assert all(float((each - stretches[0]).abs().max()) > 0.5 for each in stretches[1:])
