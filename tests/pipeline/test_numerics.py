"""Pipelines of real ranks against the update rule in one process: float64, parameter by parameter,
to 1e-10."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pytest_dnnbench.controller.pipeline_stages import PipelineStages, pipeline_stages
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import PipelineRequest
from pytest_dnnbench.rank.pipeline.cut import cut
from pytest_dnnbench.rank.pipeline.stage_ranks import (
    optimiser_of,
    requested_schedule,
    requested_stages,
)
from pytest_dnnbench.rank.proof.comparison import deviation
from pytest_dnnbench.rank.proof.pipeline_reference import PipelineReference
from pytest_dnnbench.rank.workloads.image_models import build_model, example_images
from tests.pipeline.models import RESIDUAL_CUTS
from tests.planner.versions import versions_kept

CpuRanks = Callable[[int], Ranks]
Batches = list[tuple[torch.Tensor, torch.Tensor]]

TOLERANCE = 1e-10
RUNS = (11, 1, 6)
"""Minibatches of three runs with a drain after each: longer and shorter than the pipeline,
multiples of nothing."""

SHAPES = ["1", "2", "3", "4", "2-1", "1-2", "2-2", "1-3-1", "3-"]


class InTurn(nn.Module):
    """Stages one after the other, as one model."""

    def __init__(self, stages: list[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """The logits."""
        values: tuple[torch.Tensor, ...] = (value,)
        for stage in self.stages:
            values = stage(*values)
        return values[0]


def reference_of(request: PipelineRequest) -> PipelineReference:
    """The update rule in one process, on the stages in turn."""
    stages = requested_stages(request)
    owned = [
        {
            name: f"stages.{index}.{name}"
            for name, _ in (*stage.named_parameters(), *stage.named_buffers())
        }
        for index, stage in enumerate(stages)
    ]
    return PipelineReference(
        InTurn(stages), owned, requested_schedule(request), optimiser_of(request), cross_entropy
    )


def vectors(count: int) -> Batches:
    """Batches for the chains."""
    generator = torch.Generator().manual_seed(count)
    return [
        (
            torch.randn(5, 6, generator=generator, dtype=torch.float64),
            torch.randint(4, (5,), generator=generator),
        )
        for _ in range(count)
    ]


def images(count: int) -> Batches:
    """Batches in MNIST's form."""
    generator = torch.Generator().manual_seed(count)
    return [
        (
            torch.randn(4, 1, 28, 28, generator=generator, dtype=torch.float64),
            torch.randint(10, (4,), generator=generator),
        )
        for _ in range(count)
    ]


def check(
    pipeline: PipelineStages, make: Callable[[int], Batches], runs: tuple[int, ...] = RUNS
) -> None:
    """Trains on the ranks and in the reference, and compares everything that either holds."""
    request = pipeline.request
    data = [make(count) for count in runs]
    reports = pipeline.train(*data)
    reference = reference_of(request)
    losses = [reference.run(batches) for batches in data]
    layout = requested_schedule(request).layout
    assert [(report.stage, report.replica) for report in reports] == [
        layout.place(rank) for rank in range(len(reports))
    ]
    for report in reports:
        for got, expected in (
            (report.parameters, reference.parameters(report.stage)),
            (report.buffers, reference.buffers(report.stage, report.replica)),
        ):
            assert got.keys() == expected.keys()
            deviates, where = deviation(
                {name: torch.as_tensor(value) for name, value in got.items()}, expected
            )
            assert deviates <= TOLERANCE, (
                f"{where} of stage {report.stage}, replica {report.replica}: {deviates}"
            )
        assert report.versions_kept <= versions_kept(requested_schedule(request), report.stage)
    got_losses = sorted(
        (minibatch, loss) for report in reports for minibatch, loss in report.losses
    )
    wanted_losses = sorted(
        (minibatch, loss) for run in losses for minibatch, loss in enumerate(run)
    )
    np.testing.assert_allclose(
        np.array(got_losses), np.array(wanted_losses), rtol=0, atol=TOLERANCE
    )


def chain(cpu_ranks: CpuRanks, shape: str, **settings: Any) -> PipelineStages:
    replicas = (3,) if shape == "3-" else shape
    stages = (
        len(replicas)
        if isinstance(replicas, tuple)
        else shape.count("-") + 1
        if "-" in shape
        else int(shape)
    )
    return pipeline_stages(
        cpu_ranks,
        f"tests.pipeline.models:chain{stages}",
        replicas,
        dtype="float64",
        learning_rate=0.1,
        **settings,
    )


def residual(cpu_ranks: CpuRanks, shape: str, **settings: Any) -> PipelineStages:
    pipeline = pipeline_stages(
        cpu_ranks,
        "tests.pipeline.models:residual",
        shape,
        dtype="float64",
        learning_rate=0.05,
        **settings,
    )
    request = pipeline.request
    stages = cut(
        build_model(request.model, 28), example_images(28, 2), RESIDUAL_CUTS[len(request.replicas)]
    )
    operators = tuple(stage.operators for stage in stages)
    return replace(pipeline, request=replace(request, operators=operators))


@pytest.mark.parametrize("shape", SHAPES)
def test_asynchronous_training_follows_the_rule(cpu_ranks: CpuRanks, shape: str) -> None:
    check(chain(cpu_ranks, shape, momentum=0.9, weight_decay=0.01), vectors)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_momentum_and_weight_decay_act_on_the_newest_weights(
    cpu_ranks: CpuRanks, momentum: float, weight_decay: float
) -> None:
    check(chain(cpu_ranks, "3", momentum=momentum, weight_decay=weight_decay), vectors)


@pytest.mark.parametrize("shape", ["1", "2", "3", "4", "2-1", "2-2", "1-3-1"])
def test_batch_normalisation_and_skips_over_cuts_follow_the_rule(
    cpu_ranks: CpuRanks, shape: str
) -> None:
    check(residual(cpu_ranks, shape), images)


@pytest.mark.parametrize("shape", ["1", "2", "3", "4", "2-1", "1-2", "2-2", "1-3-1"])
@pytest.mark.parametrize("variant", ["pipedream-2bw", "pipedream-flush"])
def test_two_versions_and_flush_follow_their_rules(
    cpu_ranks: CpuRanks, shape: str, variant: str
) -> None:
    check(chain(cpu_ranks, shape, variant=variant), vectors)


@pytest.mark.parametrize("variant", ["pipedream-2bw", "pipedream-flush"])
def test_the_variants_follow_their_rules_with_batch_normalisation(
    cpu_ranks: CpuRanks, variant: str
) -> None:
    check(residual(cpu_ranks, "2-1", variant=variant), images)


@pytest.mark.parametrize(("shape", "variant"), [("1-3-1", "pipedream"), ("2-2", "pipedream-flush")])
def test_ranks_that_take_turns_follow_the_rules(
    cpu_ranks: CpuRanks, monkeypatch: pytest.MonkeyPatch, shape: str, variant: str
) -> None:
    """As ranks on GPUs do, here with gloo's own messages between hosts."""
    call = "tests.pipeline.programs:call_in_turns"
    monkeypatch.setattr("pytest_dnnbench.controller.pipeline_stages._CALL", call)
    check(chain(cpu_ranks, shape, variant=variant), vectors)


@pytest.mark.parametrize("shape", ["3", "4", "2-1", "1-3-1"])
def test_vertical_sync_follows_its_rule(cpu_ranks: CpuRanks, shape: str) -> None:
    check(chain(cpu_ranks, shape, vertical_sync=True), vectors)


@pytest.mark.parametrize("variant", ["pipedream-2bw", "pipedream-flush"])
def test_parameters_that_share_a_gradient_tensor_each_get_it_once(
    cpu_ranks: CpuRanks, variant: str
) -> None:
    pipeline = pipeline_stages(
        cpu_ranks,
        "tests.pipeline.models:added_twice",
        2,
        dtype="float64",
        variant=variant,
        microbatches=3,
    )
    check(pipeline, vectors)


def test_flush_is_plain_training_with_gradient_accumulation(cpu_ranks: CpuRanks) -> None:
    pipeline = chain(cpu_ranks, "3", variant="pipedream-flush", microbatches=4, weight_decay=0.01)
    batches = vectors(12)
    reports = pipeline.train(batches)
    model = nn.Sequential(
        *(stage.get_submodule("layers") for stage in requested_stages(pipeline.request))
    )
    plain = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for start in range(0, 12, 4):
        plain.zero_grad()
        for inputs, labels in batches[start : start + 4]:
            (cross_entropy(model(inputs), labels) / 4).backward()  # type: ignore[no-untyped-call] # torch's gap
        plain.step()
    got = [value for report in reports for value in report.parameters.values()]
    for mine, theirs in zip(got, model.parameters(), strict=True):
        np.testing.assert_allclose(mine, theirs.detach().numpy(), rtol=0, atol=1e-12)


def test_one_unreplicated_stage_is_plain_training(cpu_ranks: CpuRanks) -> None:
    pipeline = chain(cpu_ranks, "1", weight_decay=0.01)
    batches = vectors(7)
    (report,) = pipeline.train(batches)
    model = requested_stages(pipeline.request)[0]
    plain = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for inputs, labels in batches:
        plain.zero_grad()
        cross_entropy(model(inputs)[0], labels).backward()  # type: ignore[no-untyped-call] # torch's gap
        plain.step()
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(
            report.parameters[name], parameter.detach().numpy(), rtol=0, atol=1e-12
        )


def test_the_reference_tells_the_rules_apart() -> None:
    ends = {}
    for variant, vertical_sync in (
        ("pipedream", False),
        ("pipedream", True),
        ("pipedream-2bw", False),
        ("pipedream-flush", False),
    ):
        request = PipelineRequest(
            "tests.pipeline.models:chain3",
            (1, 1, 1),
            variant,
            3,
            vertical_sync,
            dtype="float64",
            learning_rate=0.1,
        )
        reference = reference_of(request)
        reference.run(vectors(9))
        ends[variant, vertical_sync] = reference.parameters(0)["layers.0.weight"]
    for rule, other in ((a, b) for a in ends for b in ends if a < b):
        assert float((ends[rule] - ends[other]).abs().max()) > 1e4 * TOLERANCE, (
            f"{rule} and {other} do the same"
        )
