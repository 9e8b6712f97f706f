"""The shapes of what crosses the cuts of a pipeline, learnt before its first step.

torch's stages take examples of their inputs and outputs. Without them, torch learns the shapes by a
forward pass in training mode, and BatchNorm counts one minibatch too many. Here each stage runs
once on zeros, its buffers and random numbers are put back, and its neighbour hears of the shapes.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.rank.buffers import Buffers


@dataclass(frozen=True, slots=True)
class Form:
    """Shape and type of a tensor, and whether a gradient returns to it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    wants_gradient: bool

    @staticmethod
    def of(tensor: torch.Tensor) -> "Form":
        """That of a tensor."""
        return Form(tuple(tensor.shape), tensor.dtype, tensor.requires_grad)

    def zeros(self, device: torch.device) -> torch.Tensor:
        """A tensor of this form."""
        return torch.zeros(
            self.shape, dtype=self.dtype, device=device, requires_grad=self.wants_gradient
        )


Forms = tuple[Form, ...]


def learnt_forms(
    own_stages: Mapping[int, nn.Module],
    first: Form | None,
    stages: int,
    owner: Callable[[int], int],
    group: dist.ProcessGroup | None,
    device: torch.device,
    no_gradients: Callable[[], AbstractContextManager[object]],
) -> list[Forms]:
    """What enters each stage, and at the end what leaves the last. All ranks of a pipeline call it.

    `own_stages` are those of this rank, `first` is the form of a microbatch on the rank that has
    stage 0, `owner` gives the rank of the job that holds a stage. Raises PlanError, on every rank,
    for a cut that torch's stages cannot have.
    """
    forms: list[Forms] = [_shared((first,) if first else None, owner(0), group)]
    for stage in range(stages):
        module = own_stages.get(stage)
        leaving = None if module is None else _run(module, forms[-1], device, no_gradients)
        forms.append(_shared(leaving, owner(stage), group))
    return forms


def _run(
    module: nn.Module,
    entering: Forms,
    device: torch.device,
    no_gradients: Callable[[], AbstractContextManager[object]],
) -> Forms:
    buffers = Buffers(module)
    before = buffers.copies()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), no_gradients():
        leaving = module(*(form.zeros(device) for form in entering))
    buffers.put(before)
    tensors = leaving if isinstance(leaving, tuple) else (leaving,)
    return tuple(Form.of(tensor) for tensor in tensors)


def _shared(forms: Forms | None, source: int, group: dist.ProcessGroup | None) -> Forms:
    """The forms that the rank `source` of the job has."""
    shared = [forms]
    dist.broadcast_object_list(shared, source, group)
    assert shared[0] is not None, f"rank {source} has the stage"
    return shared[0]


def check_forms(forms: list[Forms]) -> None:
    """Raises PlanError for a tensor that crosses a cut of a training pipeline and takes no
    gradient: torch's stages wait for one."""
    for stage, entering in enumerate(forms[1:-1], start=1):
        for form in entering:
            if not form.wants_gradient:
                kind = str(form.dtype).removeprefix("torch.")
                raise PlanError(
                    f"a tensor without a gradient ({kind}, {list(form.shape)}) crosses the cut"
                    f" before stage {stage}, and torch's pipelines send gradients for all: give"
                    " another number of stages, a --dnn-plan that cuts elsewhere, or use pipedream"
                )
