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
        # int64 has more digits than float64: its bits travel.
        bits = tensor.dtype == torch.int64
        return tensor.view(torch.float64) if bits else tensor.to(torch.float64)

    def unpacked(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor of this form that was packed."""
        if self.dtype.is_floating_point:
            return tensor
        return tensor.view(torch.int64) if self.dtype == torch.int64 else tensor.to(self.dtype)

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

    def made(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What it makes of its inputs."""


def learnt_forms(
    own_stages: Mapping[int, Making],
    first: Form | None,
    stages: int,
    owner: Callable[[int], int],
    group: dist.ProcessGroup | None,
    device: torch.device,
    no_gradients: Callable[[], AbstractContextManager[object]],
) -> list[Forms]:
    """What enters each stage, and at the end what leaves the last. All ranks of a pipeline call it.

    `own_stages` are those of this rank, `first` is the form of a microbatch on the rank that has
    stage 0, `owner` gives the rank of the job that holds a stage. Each module's `made` says what
    the stage makes.
    """
    forms: list[Forms] = [_shared((first,) if first else None, owner(0), group)]
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
        leaving = module.made(*(form.zeros(device) for form in entering))
    buffers.put(before)
    return tuple(map(Form.of, leaving))


def _shared(forms: Forms | None, source: int, group: dist.ProcessGroup | None) -> Forms:
    """The forms that the rank `source` of the job has."""
    shared = [forms]
    dist.broadcast_object_list(shared, source, group)
    assert shared[0] is not None, f"rank {source} has the stage"
    return shared[0]
