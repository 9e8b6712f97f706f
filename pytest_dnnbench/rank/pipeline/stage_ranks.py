"""The ranks of the `pipeline_stages` fixture: they build their stage, then run a user's function on
it."""

import importlib
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from pytest_dnnbench.messages import PipelineRequest, Place, StageReport
from pytest_dnnbench.planner.layout import Layout
from pytest_dnnbench.planner.schedule import Schedule
from pytest_dnnbench.rank import group, rank_phase
from pytest_dnnbench.rank.entry import resolve
from pytest_dnnbench.rank.pipeline.assembly import assemble
from pytest_dnnbench.rank.pipeline.cut import cut
from pytest_dnnbench.rank.pipeline.runtime import Runtime
from pytest_dnnbench.rank.pipeline.sgd import Sgd
from pytest_dnnbench.rank.profiling.example_input import TRACED_IMAGES
from pytest_dnnbench.rank.workloads.image_models import build_model, example_images, seed


def requested_schedule(request: PipelineRequest) -> Schedule:
    """The pipeline's schedule. Raises PlanError if the request cannot have one."""
    return Schedule(
        request.variant, Layout(request.replicas), request.microbatches, request.vertical_sync
    )


def optimiser_of(request: PipelineRequest) -> Sgd:
    """The optimiser's settings."""
    return Sgd(request.learning_rate, request.momentum, request.weight_decay)


def requested_stages(request: PipelineRequest) -> list[nn.Module]:
    """All stages of the request's model, alike on every rank; in training mode, on the CPU."""
    seed(request.seed)
    stages = _by_hand(request.model)
    if stages is None:
        model = build_model(request.model, request.image_size)
        into = len(request.replicas) if request.operators is None else request.operators
        example = example_images(request.image_size, TRACED_IMAGES)
        stages = list[nn.Module](cut(model, example, into))
    return [stage.to(getattr(torch, request.dtype)).train() for stage in stages]


def _by_hand(path: str) -> list[nn.Module] | None:
    """The stages from a user's factory, if it is annotated as returning a list; otherwise None."""
    module, colon, name = path.partition(":")
    if not colon:
        return None
    factory = attrgetter(name)(importlib.import_module(module))
    annotation = str(getattr(factory, "__annotations__", {}).get("return", ""))
    return list(factory()) if annotation.lower().startswith("list[") else None


def call(
    place: Place, request: PipelineRequest, target: tuple[str, str, str | None], *arguments: Any
) -> Any:
    """Runs `function(runtime, *arguments)` on a rank of the pipeline."""
    function: Callable[..., Any] = resolve(target)
    with group.membership(place):
        runtime = assemble(
            place, requested_schedule(request), requested_stages(request), optimiser_of(request)
        )
        rank_phase.enter("program")
        result = function(runtime, *arguments)
        runtime.close()
    return result


def train(runtime: Runtime, runs: Sequence[Sequence[tuple[Any, Any]]]) -> StageReport:
    """Trains on each run's batches (images and labels, arrays), with a drain after each run, and
    reports the state after the last."""
    losses: list[tuple[int, float]] = []
    stage, replica = runtime.links.stage, runtime.links.replica
    feeders = runtime.schedule.layout.replicas[0]
    for batches in runs:
        share = (
            (torch.as_tensor(images), torch.as_tensor(labels))
            for images, labels in batches[replica::feeders]
        )
        for minibatch in runtime.train(share, len(batches)):
            if minibatch.loss is not None:
                losses.append((minibatch.minibatch, float(minibatch.loss)))
    module = runtime.stage.module
    return StageReport(
        stage=stage,
        replica=replica,
        parameters={
            name: tensor.detach().cpu().numpy() for name, tensor in module.named_parameters()
        },
        buffers={name: tensor.detach().cpu().numpy() for name, tensor in module.named_buffers()},
        losses=tuple(losses),
        versions_kept=runtime.stage.stash.kept,
        bubble_fraction=runtime.occupancy.bubble_fraction(),
    )
