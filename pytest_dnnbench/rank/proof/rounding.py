"""How far rounding may move a result: measured on the user's own model, not assumed.

The reference runs a second time, in float64, with the result of every operator that rounds moved at
random by up to some units in the last place of a number type (forward and backward; the weights and
images as well). How far a tensor moves is a sample of what that type's rounding does to it, depth
and conditioning included. This is Monte Carlo arithmetic (Parker, "Monte Carlo Arithmetic", UCLA
CSD-970002, 1997). A framework may deviate by

    bound of a tensor = factor * (distance moved / units moved + unit * largest element)

with the factor and the units of `Arithmetic`. Not here: what is compared (comparison.py).
"""

import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pytest_dnnbench.rank.proof.arithmetic import Arithmetic, strided_tensors
from pytest_dnnbench.rank.proof.distance import distance, largest, pieces
from pytest_dnnbench.rank.proof.operator_mode import (
    Arguments,
    Named,
    OperatorMode,
    name_of,
)
from pytest_dnnbench.rank.proof.shelf import Shelf
from pytest_dnnbench.rank.workloads.structure import mapped, tensors_of

NOISE_LENGTH = 1_000_003
"""Random numbers in the row that moves results, of which each piece of a tensor takes a stretch."""


class EveryOperatorRounds(OperatorMode):
    """Moves every result of this thread by up to the `moved` units of an arithmetic, at random.
    With a `direction` of -1, everything is moved the opposite way of what it is with 1."""

    def __init__(self, arithmetic: Arithmetic, seed: int = 0, direction: float = 1.0) -> None:
        super().__init__()
        self.arithmetic = arithmetic
        self._direction = direction
        self._reach = arithmetic.moved * arithmetic.unit
        self._places = random.Random(seed)  # noqa: S311 - places in a row of noise
        self._noise: dict[torch.device, torch.Tensor] = {}

    def run(self, operator: Any, args: Arguments, named: Named) -> Any:
        """Runs an operator and moves what it returns, unless that is a view or exact."""
        result, name = operator(*args, **named), name_of(operator)
        if name in EXACT or operator.is_view:
            return result
        for tensor in strided_tensors(result):
            self.move(tensor)
        if name in NORMALISES_BACKWARD and isinstance(result[0], torch.Tensor):
            self._move_channels(result[0])
        return result

    @torch.no_grad()
    def _move_channels(self, gradient: torch.Tensor) -> None:
        """Moves each channel, (batch, channel, ...), as a whole by as many units of its largest
        element: batch normalisation subtracts a mean from a channel's gradient, and what rounding
        does to the mean is the same in all elements. It adds up in the gradient of a bias, where
        errors of single elements cancel."""
        others = [place for place in range(gradient.dim()) if place != 1]
        shift = gradient.abs().amax(others, keepdim=True)
        gradient.addcmul_(self._noise_like(shift), shift, value=self._reach)

    @torch.no_grad()
    def move(self, tensor: torch.Tensor, further: float = 0.0) -> None:
        """Moves a tensor in place: each element by up to `moved` units of itself and by up to as
        many times `further`, either way. Infinite elements, as those of an attention's mask, stay
        as they are."""
        if not (tensor.is_floating_point() or tensor.is_complex()) or not tensor.numel():
            return
        real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        # In place of itself where it can be: a copy would cost memory. A GPU is not asked, for the
        # host would wait for the answer, operator by operator.
        finite = not real.is_cuda and _is_finite(real)
        size = real if finite else real.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        further *= self.arithmetic.moved
        for part, size_of_part in zip(pieces(real), pieces(size), strict=True):
            noise = self._noise_like(part)
            if further:
                part.addcmul_(noise, size_of_part.abs().mul_(self._reach).add_(further))
            else:
                part.addcmul_(noise, size_of_part, value=self._reach)

    def moved(self, tree: Any) -> Any:
        """A copy of inputs or of a batch, each number of it moved."""
        copies = mapped(tree, torch.clone)
        for tensor in tensors_of(copies):
            self.move(tensor)
        return copies

    def _noise_like(self, piece: torch.Tensor) -> torch.Tensor:
        """Numbers between -1 and 1: a stretch of the row of noise, which is longer than any piece,
        from a random place on."""
        count = piece.numel()
        start = self._places.randrange(NOISE_LENGTH - count)
        return self._row(piece)[start : start + count].view(piece.shape).to(piece.dtype)

    def _row(self, tensor: torch.Tensor) -> torch.Tensor:
        """NOISE_LENGTH random numbers on this tensor's device. Drawing them anew each time would
        take as long as the operators."""
        row = self._noise.get(tensor.device)
        if row is None:
            generator = torch.Generator().manual_seed(self._places.getrandbits(32))
            drawn = torch.rand(NOISE_LENGTH, generator=generator, dtype=torch.float64)
            drawn.mul_(2).sub_(1).mul_(self._direction)
            row = self._noise[tensor.device] = drawn.to(tensor.device)
        return row


@contextmanager
def moved_weights(
    model: nn.Module, rounds: EveryOperatorRounds, further: Mapping[str, float]
) -> Iterator[None]:
    """The model with each weight moved, by its own `further` as well, for the length of a
    `with`."""
    kept = Shelf()
    for name, weight in model.named_parameters():
        kept.put(name, weight)
        rounds.move(weight.detach(), further.get(name, 0.0))
    try:
        yield
    finally:
        for name, weight in model.named_parameters():
            kept.put_back(name, weight)


def bounds_of(
    errors: Mapping[str, float], expected: Mapping[str, torch.Tensor], arithmetic: Arithmetic
) -> dict[str, float]:
    """The bound of each tensor: see the head of this module."""
    return {
        name: arithmetic.factor * (errors[name] + arithmetic.unit * largest(tensor))
        for name, tensor in expected.items()
    }


def moved_by(moved: torch.Tensor, plain: torch.Tensor, arithmetic: Arithmetic) -> float:
    """How far one unit of rounding moves a tensor, from a pass that EveryOperatorRounds moved."""
    return distance(moved, plain) / arithmetic.moved


def distances(
    moved: Mapping[str, torch.Tensor], plain: Mapping[str, torch.Tensor], arithmetic: Arithmetic
) -> dict[str, float]:
    """By name, how far one unit of rounding moves each of some tensors."""
    return {name: moved_by(moved[name], tensor, arithmetic) for name, tensor in plain.items()}


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether every element is finite; it may say no of elements whose sum is not."""
    return math.isfinite(float(tensor.sum()))


_EXACT = """
    abs adaptive_max_pool2d adaptive_max_pool3d alias amax amin aminmax arange argmax as_strided
    bernoulli bernoulli_ bincount cat ceil clamp clamp_ clamp_max clamp_min clone
    constant_pad_nd contiguous copy copy_ cummax cummin detach detach_ embedding empty
    empty_like empty_strided expand fill fill_ flip floor floor_ fmax fmin full full_like gather
    hardtanh hardtanh_ hardtanh_backward im2col index index_select isfinite isnan kthvalue
    leaky_relu lift lift_fresh lift_fresh_copy masked_fill masked_fill_ masked_select max max_pool2d
    max_pool2d_with_indices max_pool3d_with_indices max_unpool2d maximum median min minimum mode
    nanmedian native_dropout neg neg_ new_empty new_empty_strided new_full new_ones new_zeros
    one_hot ones ones_like pixel_shuffle pixel_unshuffle rand rand_like randn randn_like
    reflection_pad2d relu relu_ repeat replication_pad2d resize_ roll round round_ scalar_tensor
    scatter scatter_ select_backward select_scatter set_ sgn sign slice_backward slice_scatter
    sort split stack threshold threshold_ threshold_backward topk tril triu trunc trunc_ unbind
    uniform_ unique_dim unsafe_split upsample_nearest2d where zero zero_ zeros zeros_like
    _local_scalar_dense _reshape_alias _to_copy _unsafe_index _unsafe_view
"""

NORMALISES_BACKWARD = frozenset(
    ("native_batch_norm_backward", "cudnn_batch_norm_backward", "batch_norm_backward")
)
"""Backward passes of batch normalisation, whose first result is the gradient of the input."""

EXACT = frozenset(_EXACT.split())
"""Operators that copy, choose or compare and so do not round. They also make numbers that code may
rely on to the last digit (`floor`, `round`), which stay as they are."""
