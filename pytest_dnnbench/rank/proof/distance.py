"""How large tensors are, and how far from each other, by their largest elements. This takes memory
for a piece of a tensor only."""

import math
from collections.abc import Iterable, Iterator, Mapping

import torch

Tensors = dict[str, torch.Tensor]
"""By name."""

Errors = dict[str, float]
"""By the name of a tensor, the largest distance of an element."""

_ARITHMETIC = frozenset(
    (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.complex64, torch.complex128),
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    )
)
"""Types that torch sums and orders. It does neither with floating-point numbers of eight bits, nor
with whole ones without a sign of more than eight."""


def furthest(errors: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """By name, the largest of several errors; not a number where one is none."""
    most: dict[str, float] = {}
    for each in errors:
        for name, error in each.items():
            before = most.get(name, error)
            most[name] = before if math.isnan(before) or before > error else error
    return most


def largest(tensor: torch.Tensor) -> float:
    """The largest absolute value of a tensor, 0 of an empty one; not a number where one is none."""
    # In pieces: torch copies what does not lie in rows.
    return _furthest_end(map(_ends, pieces(tensor.detach())))


def _ends(piece: torch.Tensor) -> torch.Tensor | None:
    """The least and the largest element, where there are any; of complex numbers, of their
    parts."""
    if not piece.numel():
        return None
    plain = torch.view_as_real(piece) if piece.is_complex() else piece
    if plain.dtype not in _ARITHMETIC:
        plain = plain.double()
    return torch.stack(torch.aminmax(plain))


def _furthest_end(ends: Iterable[torch.Tensor | None]) -> float:
    """The absolute value of the end that is furthest from 0; not a number where one is none. It
    comes to the host once: each of them would wait for a GPU."""
    most: torch.Tensor | None = None
    for each in ends:
        if each is not None:
            # In double precision first: the least integer of a type has no absolute value in it.
            end = each.double().abs().amax()
            most = end if most is None else torch.maximum(most, end)
    return 0.0 if most is None else float(most)


def distance(tensor: torch.Tensor, other: torch.Tensor) -> float:
    """The largest absolute difference of two tensors of one shape, in double precision; of complex
    numbers, that of their parts."""
    kind = torch.complex128 if other.is_complex() else torch.float64
    pairs = zip(pieces(tensor.detach()), pieces(other.detach()), strict=True)
    return _furthest_end(_ends(ours.to(kind) - theirs.to(kind)) for ours, theirs in pairs)


def same(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of one shape are equal, and all their elements finite: quicker than their
    distance. It may say no of finite ones whose sum is not, and of types that torch has no sum
    of."""
    return (
        tensor.dtype == other.dtype
        and other.dtype in _ARITHMETIC
        and torch.equal(tensor, other)
        and bool(other.detach().sum().isfinite())
    )


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
