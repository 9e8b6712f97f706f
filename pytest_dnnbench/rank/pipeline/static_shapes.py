"""The shapes of what crosses the cuts of a pipeline, learnt before its first step.

torch's stages take examples of their inputs and outputs. Without them, torch learns the shapes by a
forward pass in training mode, and BatchNorm counts one minibatch too many. Here each stage runs
once on zeros, its buffers and random numbers are put back, and its neighbour hears of the shapes.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import nn

from pytest_dnnbench.rank.buffers import Buffers

_SMALL = (torch.bool, torch.uint8, torch.int8)
"""Types of whole numbers that float16 holds exactly."""

_AS_BITS = {
    torch.int64: torch.float64,
    torch.int32: torch.float32,
    torch.int16: torch.float16,
    torch.complex64: torch.float64,
}
"""Others have more digits than a floating-point type of their size: their bits travel."""


@dataclass(frozen=True, slots=True)
class Form:
    """Shape and type of a tensor, and whether a gradient returns to it. One without a gradient is
    packed where it has to want one: into a floating-point type that holds the very same numbers."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    wants_gradient: bool

    @staticmethod
    def of(tensor: torch.Tensor) -> "Form":
        """That of a tensor."""
        return Form(tuple(tensor.shape), tensor.dtype, tensor.requires_grad)

    def packed(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of this form as floating-point numbers."""
        if tensor.is_floating_point():
            return tensor
        if tensor.dtype in _SMALL:
            return tensor.to(torch.float16)
        return tensor.view(_AS_BITS[tensor.dtype])

    def unpacked(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor of this form that was packed."""
        if self.dtype.is_floating_point:
            return tensor
        return tensor.to(self.dtype) if self.dtype in _SMALL else tensor.view(self.dtype)

    def zeros(self, device: torch.device) -> torch.Tensor:
        """A tensor of this form."""
        return torch.zeros(
            self.shape, dtype=self.dtype, device=device, requires_grad=self.wants_gradient
        )

    def travelling(self, device: torch.device) -> torch.Tensor:
        """As `zeros`, in the form in which it crosses a cut in training."""
        zeros = self.zeros(device)
        return zeros if self.wants_gradient else self.packed(zeros).requires_grad_()


Forms = tuple[Form, ...]


class Making(Protocol):
    """A stage."""

    module: nn.Module

    def outputs_of(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What it makes of its inputs."""


def learnt_forms(
    own_stages: Mapping[int, Making],
    first: Forms | None,
    stages: int,
    owner: Callable[[int], int],
    group: dist.ProcessGroup | None,
    device: torch.device,
    no_gradients: Callable[[], AbstractContextManager[object]],
) -> list[Forms]:
    """What enters each stage, and at the end what leaves the last. All ranks of a pipeline call it.

    `own_stages` are those of this rank, `first` has the forms of a microbatch on the rank that has
    stage 0, `owner` gives the rank of the job that holds a stage. Each stage's `outputs_of` says
    what it makes.
    """
    forms: list[Forms] = [_shared(first, owner(0), group)]
    for stage in range(stages):
        module = own_stages.get(stage)
        leaving = None if module is None else _run(module, forms[-1], device, no_gradients)
        forms.append(_shared(leaving, owner(stage), group))
    return forms


def _run(
    module: Making,
    entering: Forms,
    device: torch.device,
    no_gradients: Callable[[], AbstractContextManager[object]],
) -> Forms:
    buffers = Buffers(module.module)
    before = buffers.copies()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), no_gradients():
        leaving = module.outputs_of(*(form.zeros(device) for form in entering))
    buffers.put(before)
    return tuple(map(Form.of, leaving))


def _shared(forms: Forms | None, source: int, group: dist.ProcessGroup | None) -> Forms:
    """The forms that the rank `source` of the job has."""
    shared = [forms]
    dist.broadcast_object_list(shared, source, group)
    assert shared[0] is not None, f"rank {source} has the stage"
    return shared[0]
