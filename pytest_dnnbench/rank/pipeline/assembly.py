"""Puts one rank's runtime together from the stages of a model. All ranks call it at the same
time."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.messages import Place
from pytest_dnnbench.planner.schedule import Schedule
from pytest_dnnbench.rank.pipeline.ends import ONE_EACH, Ends
from pytest_dnnbench.rank.pipeline.links import Links
from pytest_dnnbench.rank.pipeline.runtime import Runtime
from pytest_dnnbench.rank.pipeline.sgd import Sgd
from pytest_dnnbench.rank.pipeline.stage import Loss, Stage
from pytest_dnnbench.rank.pipeline.stage_update import NormLimit, OwnRule
from pytest_dnnbench.rank.pipeline.stash import Stash


def assemble(
    place: Place,
    schedule: Schedule,
    stages: Sequence[nn.Module],
    optimiser: Sgd | OwnRule,
    *,
    loss: Loss = cross_entropy,
    clip_norm: float | None = None,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    ends: Ends = ONE_EACH,
) -> Runtime:
    """The runtime of this rank, inside the default process group. Raises PlanError if the number of
    stages or of ranks does not fit the schedule.

    `stages` are all stages, alike on every rank. This rank moves its own to its device, and keeps
    no other. `clip_norm` limits the norm of the gradients of all stages together. `ends` says what
    minibatches and the model's output are made of.
    """
    layout = schedule.layout
    if len(stages) != len(layout.replicas):
        raise PlanError(
            f"the model is cut into {len(stages)} stages, the plan {layout} has"
            f" {len(layout.replicas)}"
        )
    if place.world_size != layout.world_size:
        raise PlanError(
            f"the plan {layout} takes {layout.world_size} ranks, there are {place.world_size}"
        )
    device = torch.device(place.device)
    number, _ = layout.place(place.rank)
    module = stages[number].to(device)
    stage = Stage(
        module,
        Stash(module, optimiser),
        loss if number == layout.last else None,
        precision,
        ends.output,
    )
    links = Links(schedule, place.rank, device, place.timeout_s)
    limit = None
    if clip_norm is not None:
        limit = NormLimit(clip_norm, part=1 / layout.replicas[number], turns=links.turns)
    return Runtime(schedule, place.rank, stage, links, device, limit, ends)
