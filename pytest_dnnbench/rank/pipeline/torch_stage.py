"""A stage of a cut model in the form that torch.distributed.pipelining takes.

torch sends what a stage returns as it lies in memory, and detaches it in place between the two
halves of a backward pass. So an output must be contiguous, no view, no input of the stage, and
nothing that an operator has saved for its own backward pass; the gradient of an input must be
contiguous. What leaves is therefore an alias. Only what is not contiguous is copied.

torch also waits for a gradient of every tensor that crosses a cut. One that has none in the model
(tokens, an image, a value of which only the size is used) travels as a floating-point tensor that
wants one, and a gradient of zeros comes back:

    stage 1    made ─> alias ─────┐         ┌─> entered ─> module ─> alias ─> stage 3
               tokens ─> carried ─┤ stage 2 ┤                          ^
                                  └─────────┴─> tokens ── zeros <──────┘

Between the two halves of a backward pass torch keeps the weights that lie on a way from the inputs
to the outputs. An output that depends on no input is therefore put on such a way, or its weights
would have no gradients.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from pytest_dnnbench.rank.pipeline.static_shapes import Form

Precision = Callable[[], AbstractContextManager[object]]


class _Alias(torch.autograd.Function):
    """Another tensor in the same memory, which autograd does not take for a view. Its gradient
    comes back contiguous; the `others` get gradients of zeros."""

    @staticmethod
    def forward(context: Any, tensor: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        """The alias."""
        context.others = [(each.shape, each.dtype, each.device) for each in others]
        return tensor.new_empty(0).set_(tensor)  # type: ignore[call-overload, no-any-return] # torch's gap

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> Any:
        """The gradients."""
        zeros = (
            torch.zeros(shape, dtype=dtype, device=device)
            for shape, dtype, device in context.others
        )
        return (gradients[0].contiguous(), *zeros)


def alias(tensor: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
    """The same numbers in the same memory, as a tensor that may be detached in place. Backward, the
    others get zeros."""
    return _Alias.apply(tensor, *others)  # type: ignore[no-untyped-call, no-any-return] # torch's gap


class TorchStage(nn.Module):
    """Takes tensors, and returns a tuple of them; the last stage returns its output alone.

    `precision` gives the context of a forward pass; `entering` are the forms of what enters from
    another stage, set before the first training step.
    """

    def __init__(self, module: nn.Module, is_last: bool, precision: Precision) -> None:
        super().__init__()
        self.module = module
        self.entering: Sequence[Form] = ()
        self._is_last = is_last
        self._precision = precision
        self._apart: list[bool] | None = None
        self._anchors: dict[torch.device, torch.Tensor] = {}

    def made(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the stage itself makes of its inputs."""
        with self._precision():
            outputs: tuple[torch.Tensor, ...] = self.module(*inputs)
        return outputs

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Runs the stage."""
        if not torch.is_grad_enabled():
            leaving = [output.contiguous() for output in self.made(*inputs)]
        else:
            leaving = self._trained(inputs)
        return leaving[0] if self._is_last else tuple(leaving)

    def _trained(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        entered, carried = list(inputs), []
        for place, form in enumerate(self.entering):
            if form.wants_gradient:
                entered[place] = alias(inputs[place])
            else:
                carried.append(inputs[place])
                entered[place] = form.unpacked(inputs[place].detach())
        made, wanting = self.made(*entered), [each for each in inputs if each.requires_grad]
        if self._apart is None:
            # As a trace, which is the same for every minibatch.
            self._apart = [bool(wanting) and not _reaches(output, wanting) for output in made]
        leaving = [
            self._leaving(output, min(wanting, key=torch.numel) if apart else None)
            for output, apart in zip(made, self._apart, strict=True)
        ]
        if carried:
            leaving[0] = alias(leaving[0], *carried)
        return leaving

    def _leaving(self, output: torch.Tensor, joined: torch.Tensor | None) -> torch.Tensor:
        if output.requires_grad:
            return alias(output.contiguous(), *(() if joined is None else (joined,)))
        anchor = self._anchors.setdefault(
            output.device, torch.zeros((), device=output.device, requires_grad=True)
        )
        return alias(Form.of(output).packed(output.contiguous()), anchor)


def _reaches(output: torch.Tensor, inputs: Sequence[torch.Tensor]) -> bool:
    """Whether the backward pass of an output comes to one of the inputs. These are leaves, or what
    fully_shard's function made of them, one node for all."""
    wanted, passed = set(map(id, inputs)), set[Any]()
    made_by = {each.grad_fn for each in inputs} - {None}
    waiting: list[Any] = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in passed:
            continue
        passed.add(node)
        if node in made_by or id(getattr(node, "variable", None)) in wanted:
            return True
        waiting += [following for following, _ in node.next_functions]
    return False
