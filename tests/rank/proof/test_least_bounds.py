"""Bounds that need few passes with rounding, or none: no wider than those that are measured in
full, wide enough for a step that sums in another order, and far below a wrong one. Where a right
step is beyond them, the full ones are measured."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pytest_dnnbench.case import Case
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.planner.layout import Layout
from pytest_dnnbench.planner.schedule import Schedule
from pytest_dnnbench.rank import group
from pytest_dnnbench.rank.pipeline.sgd import Sgd
from pytest_dnnbench.rank.proof.arithmetic import FLOAT32, FLOAT64, Arithmetic
from pytest_dnnbench.rank.proof.comparison import Comparison
from pytest_dnnbench.rank.proof.data_parallel import TrainingProof
from pytest_dnnbench.rank.proof.data_parallel_reference import Reference
from pytest_dnnbench.rank.proof.distance import largest
from pytest_dnnbench.rank.proof.framework_steps import FrameworkStep
from pytest_dnnbench.rank.proof.pipeline import agreed
from pytest_dnnbench.rank.proof.pipeline_reference import Measured, PipelineReference
from pytest_dnnbench.rank.proof.proven_worker import ProvenWorker, minibatches_of
from pytest_dnnbench.rank.proof.rounding import EveryOperatorRounds
from pytest_dnnbench.rank.workloads.batches import wide
from pytest_dnnbench.rank.workloads.image_models import widen
from pytest_dnnbench.rank.workloads.image_workload import ImageWorkload
from pytest_dnnbench.rank.workloads.workload import Batch
from tests.awkward_models import Base, Transformer
from tests.patience import HANG_S

IMAGES = ImageWorkload("tests.awkward_models:Base", 28)
REQUEST = RunRequest(Case("single", "m", 1, "train"), "", "m", 1, 0)
MODELS = [Base, Transformer]
Make = Callable[[], nn.Module]


def fresh(make: Make) -> nn.Module:
    torch.manual_seed(1)
    return widen(make())


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(8, 1, 28, 28, generator=generator, dtype=torch.float64)
    return images, torch.randint(10, (8,), generator=generator)


def no_wider(narrow: Mapping[str, float], wide: Mapping[str, float]) -> bool:
    return narrow.keys() == wide.keys() and all(narrow[name] <= wide[name] for name in wide)


@pytest.mark.parametrize("make", MODELS)
def test_the_least_bounds_of_a_step_are_no_wider_than_measured_ones(make: Make) -> None:
    reference, shards = Reference(IMAGES, fresh(make), REQUEST), [batch(0), batch(1)]
    expected = reference.differentiate(shards)
    least, measured = reference.least_bounds(expected), reference.bounds(shards, 1, expected)
    assert no_wider(least.gradients, measured.gradients)
    assert no_wider(least.buffers, measured.buffers)
    assert no_wider(least.losses, measured.losses)


@pytest.mark.parametrize("make", MODELS)
def test_a_mean_in_another_order_is_within_the_least_bounds_and_a_wrong_one_is_not(
    make: Make,
) -> None:
    shards = [batch(number) for number in range(3)]
    reference = Reference(IMAGES, fresh(make), REQUEST)
    expected = reference.differentiate(shards)
    least = reference.least_bounds(expected).gradients
    other = Reference(IMAGES, fresh(make), REQUEST).differentiate(shards[::-1]).gradients
    missing = Reference(IMAGES, fresh(make), REQUEST).differentiate(shards[:2]).gradients
    comparison = Comparison()
    comparison.add("gradients", other, expected.gradients, least, "another order")
    assert not comparison.failures
    slightly = {name: each * (1 + 1e-12) for name, each in expected.gradients.items()}
    for wrong in (missing, slightly):
        comparison = Comparison()
        comparison.add("gradients", wrong, expected.gradients, least, "a wrong step")
        assert comparison.failures


class Faked:
    """What rank 0's part of a proof asks of a worker."""

    def __init__(self, make: Make) -> None:
        self.make = make
        self.workload, self.request, self.case = IMAGES, REQUEST, REQUEST.case
        self.place, self.device = SimpleNamespace(rank=0), torch.device("cpu")
        self.passes, self.shards, self.rounding = 1, 1, None
        self.shares_buffers = self.exchanges_zeros = self.synchronised = False

    def fresh_module(self, rank: int, wide: bool = False) -> nn.Module:
        return fresh(self.make)


def proven(make: Make, change: Callable[[str, torch.Tensor], torch.Tensor]) -> tuple[Any, int]:
    """Two steps of a framework that rounds otherwise than the reference, and changes its gradients;
    the comparison, and how often rounding was measured."""
    worker = cast(ProvenWorker, Faked(make))
    proof = TrainingProof(worker, FLOAT32, None)
    measured = count_calls(proof.reference, "bounds")
    framework = Reference(IMAGES, fresh(make), REQUEST)
    for index in range(2):
        shards: list[Batch] = [wide(each) for each in minibatches_of(worker, index)]
        one_unit = Arithmetic("float64", FLOAT64.unit, FLOAT64.factor)
        with EveryOperatorRounds(one_unit, seed=7 + index):
            left = framework.differentiate(shards)
        left.gradients = {name: change(name, each) for name, each in left.gradients.items()}
        gradients = {name: each.clone() for name, each in left.gradients.items()}
        framework.update(left.gradients, left.buffers)
        parameters = {name: each.clone() for name, each in framework.parameters.items()}
        proof.follow(index, FrameworkStep(gradients, parameters, left.buffers[0], {}), None)
    return proof.comparison, len(measured)


def count_calls(target: object, name: str) -> list[None]:
    """A list that grows by one with each call of a method."""
    calls: list[None] = []
    method = getattr(target, name)

    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(None)
        return method(*arguments, **named)

    setattr(target, name, counted)
    return calls


@pytest.mark.parametrize(("make", "steps"), [(Base, 2), (Transformer, 0)])
def test_a_right_step_beyond_the_least_bounds_is_measured_and_passes(
    make: Make, steps: int
) -> None:
    """Batch normalisation amplifies that the framework rounds otherwise."""
    comparison, measured = proven(make, lambda _, gradient: gradient)
    assert not comparison.failures
    assert measured == steps


@pytest.mark.parametrize("make", MODELS)
def test_a_wrong_step_fails_once_it_is_measured(make: Make) -> None:
    comparison, _ = proven(make, lambda _, gradient: gradient * (1 + 1e-6))
    assert any(failure.startswith("gradients of step 0") for failure in comparison.failures)


def reference_of(
    make: Make, arithmetic: Arithmetic, measured: Measured, keeps_first: bool = True
) -> PipelineReference:
    """A reference of two stages, the second with two replicas."""
    model = fresh(make)
    names = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
    first = names[0].partition(".")[0]
    owned = [
        {name: name for name in names if (name.partition(".")[0] == first) is mine}
        for mine in (True, False)
    ]
    return PipelineReference(
        model,
        owned,
        Schedule("pipedream", Layout((1, 2))),
        Sgd(1e-5, 0.9, 1e-4),
        cross_entropy,
        arithmetic,
        measured=measured,
        keeps_first=keeps_first,
    )


def pipeline(make: Make, arithmetic: Arithmetic, measured: Measured) -> PipelineReference:
    """The same after two runs, of three minibatches and two."""
    reference = reference_of(make, arithmetic, measured)
    reference.run([batch(number) for number in range(3)])
    reference.run([batch(number) for number in range(3, 5)])
    return reference


@pytest.mark.parametrize("arithmetic", [FLOAT32, FLOAT64], ids=lambda each: each.name)
@pytest.mark.parametrize("make", MODELS)
def test_a_pipeline_that_is_measured_less_has_no_wider_bounds(
    make: Make, arithmetic: Arithmetic
) -> None:
    references = [pipeline(make, arithmetic, measured) for measured in Measured]
    for less, more in pairwise(references):
        narrow, wide_ones = less.bounds(), more.bounds()
        assert no_wider(narrow.parameters, wide_ones.parameters)
        assert all(map(no_wider, narrow.first_gradients, wide_ones.first_gradients))
        for ours, theirs in zip(narrow.buffers, wide_ones.buffers, strict=True):
            assert all(map(no_wider, ours, theirs))
        assert all(map(float.__le__, narrow.losses, wide_ones.losses))
        assert less.uncertain_stages == more.uncertain_stages == []
        for stage in range(2):
            for name, weight in less.parameters(stage).items():
                assert torch.equal(weight, more.parameters(stage)[name]), (
                    "measuring changes nothing"
                )


def test_a_pipeline_of_which_nothing_is_measured_passes_each_minibatch_once() -> None:
    """Its bounds still tell a weight that is 1e-12 of itself away."""
    reference = reference_of(Base, FLOAT64, Measured.NONE)
    passes = count_calls(reference, "_pass")
    reference.run([batch(number) for number in range(3)])
    assert len(passes) == 3
    weights, bounds = reference.parameters(0), reference.bounds().parameters
    slightly = {name: weight * (1 + 1e-12) for name, weight in weights.items()}
    for got, fails in ((weights, False), (slightly, True)):
        comparison = Comparison()
        comparison.add("parameters", got, weights, reference.named(0, bounds), "stage 0")
        assert bool(comparison.failures) is fails


@pytest.mark.parametrize("make", MODELS)
def test_a_loss_beyond_the_least_bound_is_measured_and_no_other(make: Make) -> None:
    batches = [batch(number) for number in range(4)]
    plain, every = (reference_of(make, FLOAT64, each) for each in (Measured.FIRST, Measured.EVERY))
    losses = plain.run(batches)
    every.run(batches)
    got = {2: losses[2] * (1 + 1e-13), 3: losses[3] * (1 + 1e-15)}
    few = reference_of(make, FLOAT64, Measured.FIRST)
    assert few.run(batches, got) == losses, "measuring changes nothing"
    least, bounds, full = (each.bounds().losses for each in (plain, few, every))
    assert bounds[2] > least[2]
    assert bounds[:2] == least[:2]
    assert bounds[3] == least[3]
    assert all(map(float.__le__, bounds, full))


def test_the_buffers_of_every_replica_are_measured_once() -> None:
    reference = reference_of(Base, FLOAT64, Measured.FIRST, keeps_first=False)
    passes = count_calls(reference, "_distances")
    reference.run([batch(number) for number in range(4)])
    assert len(passes) == 2
    for state, bounds in zip(reference.states, reference.bounds().buffers, strict=True):
        for held, of_replica in zip(state.buffers, bounds, strict=True):
            for name, bound in of_replica.items():
                least = FLOAT64.factor * FLOAT64.unit * largest(held[name])
                assert bound > least or not held[name].is_floating_point()


def test_of_a_run_whose_buffers_are_not_compared_one_minibatch_is_measured() -> None:
    reference = reference_of(Base, FLOAT32, Measured.FIRST)
    passes = count_calls(reference, "_distances")
    reference.run([batch(number) for number in range(4)])
    assert len(passes) == 1


@pytest.mark.parametrize("make", MODELS)
def test_the_first_minibatch_whose_loss_differs_is_measured_where_nothing_else_is(
    make: Make,
) -> None:
    """efficientnet_b0 under `1f1b` has the reference's losses to the last bit until its weights
    have been summed in another order, twice."""
    batches = [batch(number) for number in range(4)]
    plain, every = (reference_of(make, FLOAT64, each) for each in (Measured.NONE, Measured.EVERY))
    losses = plain.run(batches)
    every.run(batches)
    got = dict(enumerate(losses)) | {number: losses[number] * (1 + 1e-15) for number in (2, 3)}
    few = reference_of(make, FLOAT64, Measured.NONE)
    passes = count_calls(few, "_distances")
    assert few.run(batches, got) == losses, "measuring changes nothing"
    assert len(passes) == 1
    least, bounds, full = (each.bounds().parameters for each in (plain, few, every))
    assert no_wider(least, bounds)
    assert no_wider(bounds, full)
    assert bounds != least


def agreement(place: Place) -> list[int]:
    """On a rank: what was measured when it compared, where rank 1 is beyond all but the last, and
    whether anything failed in the end."""
    group.join(place)
    ways: list[int] = []

    def compared(measured: Measured) -> Comparison:
        ways.append(measured)
        comparison = Comparison()
        if place.rank == 1 and measured != Measured.EVERY:
            comparison.failures.append("beyond")
        return comparison

    failed = bool(agreed(compared, Measured.NONE).failures)
    group.leave()
    return [*ways, failed]


def test_all_ranks_measure_more_where_one_of_them_is_beyond(server: ForkServer) -> None:
    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S)
    answers = ranks.launch(f"{__name__}:agreement", returns=list)
    assert answers == [[Measured.NONE, Measured.FIRST, Measured.EVERY, False]] * 2
