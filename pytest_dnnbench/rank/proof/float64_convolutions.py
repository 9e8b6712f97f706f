"""Convolutions of a proof's passes in float64, on a CPU.

torch has no fast kernel for them there: it makes a matrix product per image, and reads all weights
for each. Where an image has a few places left, as deep in a network on small images, one product
for the whole minibatch takes a third to two thirds of the time. It is the same sum in another
order. Both sides of a proof compute in this way: their kernels in float64 are not those that are
timed, which the step in the timed types checks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn
from torch.nn.functional import fold, unfold

from pytest_dnnbench.rank.proof.operator_mode import Arguments, Named, OperatorMode

MOST_PLACES = 9
"""Of an image of the output. With 16, torch's own kernel is as fast."""

Pair = tuple[int, int]


class Float64Convolutions(OperatorMode):
    """For the length of a `with`, convolutions of small images in float64, forward and backward,
    take the minibatch as a whole."""

    def run(self, operator: Any, args: Arguments, named: Named) -> Any:
        """Runs an operator, or what stands for it."""
        if operator is torch.ops.aten.convolution.default and not named:
            inputs, weight, bias, *form = args
            if window := _Window.of(inputs, weight, *form):
                return window.forward(inputs, weight, bias)
        elif operator is torch.ops.aten.convolution_backward.default and not named:
            gradient, inputs, weight, _, *form, wanted = args
            if window := _Window.of(inputs, weight, *form):
                return window.backward(gradient, inputs, weight, wanted)
        return operator(*args, **named)


@dataclass(frozen=True, slots=True)
class _Window:
    """What a convolution of two dimensions meets of an image, and at how many places."""

    size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    places: Pair

    @classmethod
    def of(
        cls,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        transposed: bool,
        _output_padding: Sequence[int],
        groups: int,
    ) -> Self | None:
        """None for a convolution that torch itself is to compute."""
        plain = type(inputs) in _PLAIN and type(weight) in _PLAIN and not transposed
        on_cpu = inputs.device.type == "cpu" and inputs.dtype == torch.float64
        if not (plain and on_cpu and inputs.dim() == 4 and len(inputs) > 1):
            return None
        height, width = (
            (pixels + 2 * pad - space * (reach - 1) - 1) // step + 1
            for pixels, reach, step, pad, space in zip(
                inputs.shape[2:],
                weight.shape[2:],
                *map(_pair, (stride, padding, dilation)),
                strict=True,
            )
        )
        if not 0 < height * width <= MOST_PLACES:
            return None
        form = _pair(weight.shape[2:]), _pair(stride), _pair(padding), _pair(dilation)
        return cls(*form, groups, (height, width))

    def forward(
        self, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """The output, in the layout that torch gives it."""
        product = torch.bmm(self._rows(weight), self._columns(inputs))
        output = product.view(len(weight), len(inputs), *self.places).transpose(0, 1)
        laid = output.contiguous(memory_format=_layout(inputs, weight))
        return laid if bias is None else laid + bias.view(-1, 1, 1)

    def backward(
        self,
        gradient: torch.Tensor,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        wanted: Sequence[bool],
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """The gradients of inputs, weight and bias, those that are wanted."""
        of_inputs = of_weight = of_bias = None
        by_group = gradient.reshape(len(inputs), self.groups, len(weight) // self.groups, -1)
        of_product = by_group.permute(1, 2, 0, 3).flatten(2)
        if wanted[0]:
            of_columns = torch.bmm(self._rows(weight).transpose(1, 2), of_product)
            of_columns = of_columns.view(-1, len(inputs), self.places[0] * self.places[1])
            of_inputs = fold(
                of_columns.transpose(0, 1),
                _pair(inputs.shape[2:]),
                *(self.size, self.dilation, self.padding, self.stride),
            )
        if wanted[1]:
            columns = self._columns(inputs).transpose(1, 2)
            of_weight = torch.bmm(of_product, columns).view(weight.shape)
        if wanted[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_inputs, of_weight, of_bias

    def _rows(self, weight: torch.Tensor) -> torch.Tensor:
        """By group, the weights of each output: (group, output, number)."""
        return weight.reshape(self.groups, len(weight) // self.groups, -1)

    def _columns(self, inputs: torch.Tensor) -> torch.Tensor:
        """By group, the numbers that the window meets: (group, number, image and place)."""
        met = unfold(inputs, self.size, self.dilation, self.padding, self.stride)
        met = met.view(len(inputs), self.groups, -1, met.shape[-1])
        return met.permute(1, 2, 0, 3).flatten(2)


_PLAIN = (torch.Tensor, nn.Parameter)
"""Not a part of a tensor on a mesh of ranks, nor any other kind of tensor."""


def _layout(inputs: torch.Tensor, weight: torch.Tensor) -> torch.memory_format:
    """channels_last where one of the two has it; a tensor that fits both layouts has neither."""
    last = torch.channels_last
    of_either = any(
        each.is_contiguous(memory_format=last) and not each.is_contiguous()
        for each in (inputs, weight)
    )
    return last if of_either else torch.contiguous_format


def _pair(sizes: Sequence[int]) -> Pair:
    """Of both directions; a size that stands for both may be given once."""
    return sizes[0], sizes[-1]
