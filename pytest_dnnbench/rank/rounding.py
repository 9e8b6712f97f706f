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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_dnnbench.rank.shelf import Shelf

SUMMED_FACTOR = 64.0
"""For types in which an operator also sums: K terms in an unlucky order err by sqrt(K/2) units of
rounding at random, 48 for a convolution of 512 channels by 3 by 3, of which one is modelled."""

ROUNDED_FACTOR = 8.0
"""For types in which an operator rounds its inputs and its result once and sums in single precision
(autocast, TF32): as many roundings as are modelled, times a margin of 8 for the extremes."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """A number type as operators use it: the distance from 1 to the next number, the factor of the
    bound, and by how many units a result is moved.

    More units than one, where the type is fine enough for their effect to stay proportional: a tie
    that rounding may turn (a ReLU at zero, the largest of a pool) changes a gradient by a jump. It
    is turned in a pass that moves results by one unit about as rarely as in the timed step, and in
    one that moves them by 16 units, 16 times as often.
    """

    name: str
    unit: float
    factor: float
    moved: float = 1.0

    @property
    def directions(self) -> tuple[float, ...]:
        """The ways in which gradients are moved, a pass each; the furthest counts.

        A value nearer to a tie than rounding moves it lies on the wrong side in about half of all
        passes, the timed one included: a single pass misses half of the jumps that the timed one
        makes. To first order, noise of the opposite sign moves the value to the opposite side, so
        one of the two passes turns the tie. In float64 so few values are that near to a tie (2e-16
        of themselves) that one pass is enough.
        """
        return (1.0,) if self.unit <= FLOAT64.unit else (1.0, -1.0)


NOISE_LENGTH = 1_000_003
"""Random numbers in the row that moves results, of which each piece of a tensor takes a stretch."""

FLOAT64 = Arithmetic("float64", 2.0**-52, SUMMED_FACTOR, moved=16.0)
FLOAT32 = Arithmetic("float32", 2.0**-23, SUMMED_FACTOR, moved=16.0)
TF32 = Arithmetic("tf32", 2.0**-10, ROUNDED_FACTOR)
FLOAT16 = Arithmetic("float16", 2.0**-10, ROUNDED_FACTOR)
BFLOAT16 = Arithmetic("bfloat16", 2.0**-7, ROUNDED_FACTOR)

_OF_TYPE = {
    torch.float64: FLOAT64,
    torch.complex128: FLOAT64,
    torch.float32: FLOAT32,
    torch.complex64: FLOAT32,
    torch.float16: FLOAT16,
    torch.bfloat16: BFLOAT16,
}


def coarsest(types: Iterable[torch.dtype], precision: str = "fp32") -> Arithmetic:
    """The arithmetic of the coarsest of some types; TF32 at least where the case's precision is
    that."""
    candidates = [_OF_TYPE[kind] for kind in types if kind in _OF_TYPE]
    if precision == "tf32":
        candidates.append(TF32)
    return max(candidates, key=lambda arithmetic: arithmetic.unit, default=FLOAT32)


def widened_by_type(
    bounds: Mapping[str, float],
    held: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
) -> dict[str, float]:
    """Bounds of tensors that are held in types of their own: a gradient of a bfloat16 weight is
    rounded to bfloat16, whatever the model computes in."""
    widened = dict(bounds)
    for name, tensor in held.items():
        arithmetic = _OF_TYPE.get(tensor.dtype, FLOAT64)
        if name in widened and arithmetic.unit > FLOAT32.unit:
            widened[name] += arithmetic.factor * arithmetic.unit * largest(expected[name])
    return widened


class TypesUsed(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's gap
    """Notes the number types of everything that is computed in a `with`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's gap
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Runs an operator and looks at its result."""
        result = func(*args, **(kwargs or {}))
        self.types.update(tensor.dtype for tensor in _tensors(result))
        return result


class EveryOperatorRounds(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's gap
    """Moves every result of this thread by up to the `moved` units of an arithmetic, at random.
    With a `direction` of -1, everything is moved the opposite way of what it is with 1."""

    def __init__(self, arithmetic: Arithmetic, seed: int = 0, direction: float = 1.0) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's gap
        self.arithmetic = arithmetic
        self._direction = direction
        self._reach = arithmetic.moved * arithmetic.unit
        self._places = random.Random(seed)  # noqa: S311 - places in a row of noise
        self._noise: dict[torch.device, torch.Tensor] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Runs an operator and moves what it returns, unless that is a view or exact."""
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if name in EXACT or func.is_view:
            return result
        for tensor in _tensors(result):
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
        # In place of itself where it can be: a copy would cost memory.
        finite = _is_finite(real)
        size = real if finite else real.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        further *= self.arithmetic.moved
        for part, size_of_part in zip(pieces(real), pieces(size), strict=True):
            noise = self._noise_like(part)
            if further:
                part.addcmul_(noise, size_of_part.abs().mul_(self._reach).add_(further))
            else:
                part.addcmul_(noise, size_of_part, value=self._reach)

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


class SgdSettings(Protocol):
    """What SGD has to know."""

    @property
    def learning_rate(self) -> float:
        """Of the update."""

    @property
    def momentum(self) -> float:
        """Of the update."""

    @property
    def weight_decay(self) -> float:
        """L2, added to the gradient."""


class Drift:
    """How far rounding may have moved the weights since the start: the errors of gradients carried
    through SGD's sums, to first order and at their worst, tensor by tensor (largest elements)."""

    def __init__(self, optimiser: SgdSettings, arithmetic: Arithmetic = FLOAT64) -> None:
        self.optimiser = optimiser
        self.arithmetic = arithmetic
        self.weights: dict[str, float] = {}
        self._velocity: dict[str, float] = {}

    def step(
        self, name: str, gradient_error: float, weight: torch.Tensor, velocity: torch.Tensor
    ) -> None:
        """Follows an update of one weight, whose new value and velocity these are."""
        optimiser, unit = self.optimiser, self.arithmetic.unit
        weight_error = self.weights.get(name, 0.0)
        self._velocity[name] = (
            optimiser.momentum * self._velocity.get(name, 0.0)
            + gradient_error
            + optimiser.weight_decay * weight_error
            + unit * largest(velocity)
        )
        self.weights[name] = (
            weight_error + optimiser.learning_rate * self._velocity[name] + unit * largest(weight)
        )

    def bounds(self) -> dict[str, float]:
        """How far a right framework's weights may be from the reference's."""
        return {name: self.arithmetic.factor * error for name, error in self.weights.items()}


def bounds_of(
    errors: Mapping[str, float], expected: Mapping[str, torch.Tensor], arithmetic: Arithmetic
) -> dict[str, float]:
    """The bound of each tensor: see the head of this module."""
    return {
        name: arithmetic.factor * (errors[name] + arithmetic.unit * largest(tensor))
        for name, tensor in expected.items()
    }


MOST_BOUND = 1e-3
"""Of a step's gradients, the tensor that rounding moves least must be this certain. Otherwise a
wrong step could not be told from rounding."""

UNCERTAIN = (
    "rounding in float64 alone may move each of the model's gradients by more than"
    f" {MOST_BOUND:.0e} of itself, so no step can be proven right: use a model or a batch that is"
    " better conditioned (larger images, so that batch normalisation has more values; smaller"
    " first weights)"
)


def is_certain(bounds: Mapping[str, float], gradients: Mapping[str, torch.Tensor]) -> bool:
    """Whether there is a gradient that rounding moves little enough for a wrong step to be told
    from a right one; true where none is but zeros."""
    sizes = {name: largest(tensor) for name, tensor in gradients.items()}
    parts = [bounds[name] / size for name, size in sizes.items() if size > 0]
    return not parts or min(parts) <= MOST_BOUND


def furthest(errors: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """By name, the largest of several errors; not a number where one is none."""
    most: dict[str, float] = {}
    for each in errors:
        for name, error in each.items():
            before = most.get(name, error)
            most[name] = before if math.isnan(before) or before > error else error
    return most


def moved_by(moved: torch.Tensor, plain: torch.Tensor, arithmetic: Arithmetic) -> float:
    """How far one unit of rounding moves a tensor, from a pass that EveryOperatorRounds moved."""
    return distance(moved, plain) / arithmetic.moved


def largest(tensor: torch.Tensor) -> float:
    """The largest absolute value of a tensor, 0 of an empty one; not a number where one is none."""
    most = 0.0
    # In pieces: torch copies what does not lie in rows.
    for piece in pieces(tensor.detach()):
        if not piece.numel():
            continue
        plain = torch.view_as_real(piece) if piece.is_complex() else piece
        if plain.dtype == torch.bool:
            plain = plain.to(torch.uint8)
        least, greatest = (float(end) for end in torch.aminmax(plain))
        if math.isnan(least):
            return least
        most = max(most, -least, greatest)
    return most


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether every element is finite; it may say no of elements whose sum is not."""
    return math.isfinite(float(tensor.sum()))


def distance(tensor: torch.Tensor, other: torch.Tensor) -> float:
    """The largest absolute difference of two tensors of one shape, in double precision; of complex
    numbers, that of their parts."""
    kind = torch.complex128 if other.is_complex() else torch.float64
    most = 0.0
    for ours, theirs in zip(pieces(tensor.detach()), pieces(other.detach()), strict=True):
        apart = largest(ours.to(kind) - theirs.to(kind))
        if math.isnan(apart):
            return apart
        most = max(most, apart)
    return most


PIECE = 1 << 17
"""Elements of a tensor that are worked on at a time where that takes memory for as many: the
largest tensor of a model may be most of it."""


def pieces(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """A tensor in parts of at most PIECE elements, as views: rows of its first dimension, or the
    pieces of each row where a row is larger."""
    if tensor.numel() <= PIECE or not tensor.dim():
        yield tensor
        return
    rows = PIECE * len(tensor) // tensor.numel()
    for part in torch.split(tensor, max(1, rows)):
        yield from pieces(part[0]) if rows == 0 else (part,)


def _tensors(result: Any) -> Iterator[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        if result.layout == torch.strided:
            yield result
    elif isinstance(result, tuple | list):
        for each in result:
            yield from _tensors(each)


_EXACT = """
    _to_copy abs alias argmax arange as_strided bernoulli bernoulli_ bincount
    cat ceil clamp clamp_ clamp_max clamp_min clone constant_pad_nd contiguous copy copy_ detach
    detach_ embedding empty empty_like empty_strided expand fill fill_ flip floor floor_ full
    full_like gather hardtanh hardtanh_ hardtanh_backward index index_select leaky_relu lift
    lift_fresh lift_fresh_copy masked_fill masked_fill_ max max_pool2d_with_indices max_pool2d
    maximum min minimum native_dropout neg neg_ new_empty new_empty_strided new_full new_ones
    new_zeros ones ones_like one_hot pixel_shuffle pixel_unshuffle rand rand_like randn randn_like
    reflection_pad2d relu relu_ repeat replication_pad2d resize_ roll round round_ scalar_tensor
    scatter scatter_ select_backward select_scatter sgn sign slice_backward slice_scatter sort
    split stack threshold threshold_ threshold_backward topk tril triu trunc trunc_ unbind uniform_
    unique_dim unsafe_split upsample_nearest2d where zero zero_ zeros zeros_like _unsafe_view
    _reshape_alias _unsafe_index max_unpool2d isfinite isnan set_ _local_scalar_dense
"""

NORMALISES_BACKWARD = frozenset(
    ("native_batch_norm_backward", "cudnn_batch_norm_backward", "batch_norm_backward")
)
"""Backward passes of batch normalisation, whose first result is the gradient of the input."""

EXACT = frozenset(_EXACT.split())
"""Operators that copy, choose or compare and so do not round. They also make numbers that code may
rely on to the last digit (`floor`, `round`), which stay as they are."""
