"""What an exchange of gradients that rounds on purpose may do to their means."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Rounding:
    """How far an exchange that rounds on purpose may move averaged gradients: by `relative` times
    the larger of `floor` and the largest element of the tensor."""

    relative: float
    floor: float


CANCELLATION = 4
"""How much larger the ranks' gradients may be than their mean: the former are rounded, the error is
relative to the latter."""

FP16_SMALLEST = 2.0**-24
"""Gradients below this vanish in fp16, whatever the size of their tensor."""


def exchange_in(kind: torch.dtype, ranks: int) -> Rounding:
    """The rounding of an exchange in fp16 or bf16. Of each element: this rank's gradient, the
    partial sums with each other rank's, the mean."""
    # Half the distance between neighbouring numbers, relative to them.
    rounding = torch.finfo(kind).eps / 2
    smallest = FP16_SMALLEST if kind == torch.float16 else torch.finfo(kind).tiny
    return Rounding(CANCELLATION * (ranks + 1) * rounding, floor=smallest / rounding)
