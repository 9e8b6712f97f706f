"""The number types that operators use, and which of them a pass of a model uses. How far their
rounding moves a result: rounding.py."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pytest_dnnbench.rank.proof.distance import largest
from pytest_dnnbench.rank.proof.operator_mode import Arguments, Named, OperatorMode

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


class TypesUsed(OperatorMode):
    """Notes the number types of everything that is computed in a `with`."""

    def __init__(self) -> None:
        super().__init__()
        self.types: set[torch.dtype] = set()

    def run(self, operator: Any, args: Arguments, named: Named) -> Any:
        """Runs an operator and looks at its result."""
        result = operator(*args, **named)
        self.types.update(tensor.dtype for tensor in strided_tensors(result))
        return result


def strided_tensors(result: Any) -> Iterator[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        if result.layout == torch.strided:
            yield result
    elif isinstance(result, tuple | list):
        for each in result:
            yield from strided_tensors(each)
