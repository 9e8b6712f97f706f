"""One stage at work: forward and backward passes of minibatches, several of them in flight. It
does not know of other ranks."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pytest_dnnbench.rank.pipeline.stash import Stash
from pytest_dnnbench.rank.workloads.structure import ONE, Structure

Tensors = tuple[torch.Tensor, ...]
Loss = Callable[[Any, Any], torch.Tensor]
"""(output, targets) -> a scalar, the mean over the minibatch."""


@dataclass(slots=True)
class _Flight:
    """A minibatch between its forward and its backward pass. `starts` are the inputs, `ends` the
    outputs that take part in the backward pass."""

    starts: list[torch.Tensor]
    ends: list[torch.Tensor]
    parameters: list[nn.Parameter]


class Stage:
    """A module that takes and returns tuples of tensors, with the versions of its weights.

    `loss` is set on the last stage, whose module returns the tensors of the model's output, which
    has the structure `output`. `precision` gives the context of a forward pass.
    """

    def __init__(
        self,
        module: nn.Module,
        stash: Stash,
        loss: Loss | None,
        precision: Callable[[], AbstractContextManager[object]] = nullcontext,
        output: Structure = ONE,
    ) -> None:
        self.module = module
        self._output = output
        self.stash = stash
        self._loss = loss
        self._precision = precision
        self._flights: dict[int, _Flight] = {}

    def forward(self, minibatch: int, version: int, inputs: Tensors, targets: Any) -> Tensors:
        """Runs a minibatch with a version of the weights. Returns the outputs, on the last stage
        the loss, with their autograd graph.

        An input takes part in the backward pass if it requires a gradient. It must be a leaf.
        """
        parameters = self.stash.install(version)
        with self._precision():
            outputs: Tensors = self.module(*inputs)
            if self._loss is not None:
                outputs = (self._loss(self._output.tree(outputs), targets),)
        starts = [tensor for tensor in inputs if tensor.requires_grad]
        ends = [tensor for tensor in outputs if tensor.requires_grad]
        self._flights[minibatch] = _Flight(starts, ends, parameters)
        return outputs

    def backward(
        self, minibatch: int, gradients: Sequence[torch.Tensor] | None
    ) -> tuple[Tensors, tuple[torch.Tensor | None, ...]]:
        """The gradients of the inputs that require one, and of the parameters, at the weights of
        the forward pass. A parameter that the outputs do not depend on has None.

        `gradients` are those of the outputs that require one; None on the last stage.
        """
        flight = self._flights.pop(minibatch)
        leaves = [*flight.starts, *flight.parameters]
        if not leaves:
            return (), ()
        if not flight.ends:
            return tuple(map(torch.zeros_like, flight.starts)), (None,) * len(flight.parameters)
        computed = torch.autograd.grad(flight.ends, leaves, gradients, allow_unused=True)
        to_inputs = tuple(
            torch.zeros_like(start) if gradient is None else gradient
            for start, gradient in zip(flight.starts, computed, strict=False)
        )
        return to_inputs, computed[len(flight.starts) :]

    @torch.no_grad()
    def evaluate(self, inputs: Tensors) -> Tensors:
        """The outputs of a minibatch in evaluation mode, with the newest weights."""
        self.stash.install(self.stash.newest)
        assert not self.module.training
        with self._precision():
            outputs: Tensors = self.module(*inputs)
        return outputs

    @torch.no_grad()
    def loss_of(self, output: Any, targets: Any) -> torch.Tensor:
        """The loss of the model's output in evaluation mode, on the last stage."""
        assert self._loss is not None, "only the last stage has a loss"
        with self._precision():
            return self._loss(output, targets)
