"""A stage of a cut model in the form that torch.distributed.pipelining takes.

torch sends what a stage returns as it lies in memory, and detaches it in place between the two
halves of a backward pass. So an output must be contiguous, no view, no input of the stage, and
nothing that an operator has saved for its own backward pass; the gradient of an input must be
contiguous. What leaves is therefore an alias. Only what is not contiguous is copied.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

Precision = Callable[[], AbstractContextManager[object]]


class _Alias(torch.autograd.Function):
    """Another tensor in the same memory, which autograd does not take for a view; its gradient
    comes back contiguous."""

    @staticmethod
    def forward(context: Any, tensor: torch.Tensor) -> torch.Tensor:
        """The alias."""
        return tensor.new_empty(0).set_(tensor)  # type: ignore[call-overload, no-any-return] # torch's gap

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        """The gradient."""
        return gradients[0].contiguous()


def alias(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers in the same memory, as a tensor that may be detached in place."""
    return _Alias.apply(tensor)  # type: ignore[no-untyped-call, no-any-return] # torch's gap


class TorchStage(nn.Module):
    """Takes tensors, and returns a tuple of them; the last stage returns its output alone.
    `precision` gives the context of a forward pass."""

    def __init__(self, module: nn.Module, is_last: bool, precision: Precision) -> None:
        super().__init__()
        self.module = module
        self._is_last = is_last
        self._precision = precision

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Runs the stage."""
        entered = [alias(each) if each.requires_grad else each for each in inputs]
        with self._precision():
            outputs = self.module(*entered)
        if self._is_last:
            return alias(outputs[0])
        return tuple(alias(output.contiguous()) for output in outputs)
