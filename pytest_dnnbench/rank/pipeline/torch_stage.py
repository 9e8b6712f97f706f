"""A stage of a cut model in the form that torch.distributed.pipelining takes.

torch sends what a stage returns as it lies in memory, and detaches it in place between the two
halves of a backward pass. So an output must be contiguous, no view, no input of the stage, and
nothing that an operator has saved for its own backward pass; the gradient of an input must be
contiguous. What leaves is therefore an alias. Only what is not contiguous is copied.

torch also waits for a gradient of every tensor that crosses a cut. One that has none in the model
(tokens, an image, a value of which only the size is used) travels as a floating-point tensor that
wants one, and a gradient of zeros comes back:

    stage 1  output ─> alias ─────┐         ┌─> entered ─> module ─> alias ─> stage 3
               tokens ─> carried ─┤ stage 2 ┤                          ^
                                  └─────────┴─> tokens ── zeros <──────┘

So do other inputs of which a stage makes nothing, and what enters the last stage and is no part of
the loss. Between the two halves of a backward pass torch keeps the weights that lie on a way from
the inputs to the outputs. An output that depends on no input is therefore put on such a way, or its
weights would have no gradients.
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
    """Takes tensors, and returns a tuple of them: on the last stage those of the model's output.

    `precision` gives the context of a forward pass; `entering` are the forms of what enters from
    another stage, set before the first training step.
    """

    def __init__(self, module: nn.Module, is_last: bool, precision: Precision) -> None:
        super().__init__()
        self.module = module
        self.entering: Sequence[Form] = ()
        self._is_last = is_last
        self._precision = precision
        # As a trace, these are the same for every minibatch.
        self._apart: list[bool] | None = None
        self._missed: list[bool] = []
        self._missed_by_loss: list[bool] | None = None
        self._wanting: list[torch.Tensor] = []
        self._anchors: dict[torch.device, torch.Tensor] = {}

    def outputs_of(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the stage itself makes of its inputs."""
        with self._precision():
            outputs: tuple[torch.Tensor, ...] = self.module(*inputs)
        return outputs

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Runs the stage."""
        if not torch.is_grad_enabled():
            return tuple(output.contiguous() for output in self.outputs_of(*inputs))
        return self._trained(inputs)

    def _trained(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        entered = list(inputs)
        for place, form in enumerate(self.entering):
            entered[place] = (
                alias(inputs[place])
                if form.wants_gradient
                else form.unpacked(inputs[place].detach())
            )
        outputs = self.outputs_of(*entered)
        wanting = [each for each in inputs if each.requires_grad]
        if self._apart is None:
            self._apart = [bool(wanting) and not any(_reached([each], wanting)) for each in outputs]
            self._missed = [not reached for reached in _reached(outputs, wanting)]
        joined = min(wanting, key=torch.numel) if any(self._apart) else None
        leave = self._handed_to_loss if self._is_last else self._leaving
        leaving = [
            leave(output, joined if apart else None)
            for output, apart in zip(outputs, self._apart, strict=True)
        ]
        if self._is_last:
            self._wanting = wanting
        elif any(self._missed):
            leaving[0] = alias(leaving[0], *_chosen(wanting, self._missed))
        return tuple(leaving)

    def _leaving(self, output: torch.Tensor, joined: torch.Tensor | None) -> torch.Tensor:
        if output.requires_grad:
            return alias(output.contiguous(), *(() if joined is None else (joined,)))
        anchor = self._anchors.setdefault(
            output.device, torch.zeros((), device=output.device, requires_grad=True)
        )
        return alias(Form.of(output).packed(output.contiguous()), anchor)

    def _handed_to_loss(self, output: torch.Tensor, joined: torch.Tensor | None) -> torch.Tensor:
        return self._leaving(output, joined) if output.requires_grad else output

    def loss_for_all(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss of the microbatch that has just passed the last stage. What entered the stage
        and is no part of the loss, as an output that the loss leaves out, gets zeros."""
        wanting, self._wanting = self._wanting, []
        if self._missed_by_loss is None:
            self._missed_by_loss = [not reached for reached in _reached([loss], wanting)]
        return alias(loss, *_chosen(wanting, self._missed_by_loss))


def _chosen(tensors: Sequence[torch.Tensor], flags: Sequence[bool]) -> list[torch.Tensor]:
    return [each for each, is_chosen in zip(tensors, flags, strict=True) if is_chosen]


def _edge(tensor: torch.Tensor) -> tuple[Any, int]:
    """Where autograd comes to a tensor: a result of a node, or the tensor itself where it is a
    leaf."""
    if tensor.grad_fn is None:
        return id(tensor), 0
    return tensor.grad_fn, tensor.output_nr


def _reached(outputs: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]) -> list[bool]:
    """Whether the backward pass of the outputs comes to each of the inputs. These are leaves, or
    what fully_shard's function made of them, all results of one node."""
    edges = list(map(_edge, inputs))
    targets, arrived, passed = set(edges), set[Any](), set[Any]()
    waiting: list[tuple[Any, int]] = [_edge(each) for each in outputs if each.grad_fn is not None]
    while waiting:
        edge = waiting.pop()
        node = edge[0]
        if edge in targets:
            arrived.add(edge)
        if node is None or node in passed or edge in targets:
            continue
        passed.add(node)
        leaf = (id(getattr(node, "variable", None)), 0)
        arrived |= {leaf} & targets
        waiting += node.next_functions
    return [edge in arrived for edge in edges]
