"""Parallel shapes, as tp2xdp2: over how many ranks each kind of parallelism goes. No torch here.

    pp   the layers are cut into pieces, one after the other on so many ranks
    tp   each layer is split among so many ranks
    dp   so many replicas of all that, each with its own samples

Not here: which framework runs a shape, and by which of its options (catalog/frameworks.py).
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pytest_dnnbench.errors import UsageError

AXES = ("pp", "tp", "dp")

_FACTOR = re.compile(rf"({'|'.join(AXES)})([1-9][0-9]{{0,5}})")


@dataclass(frozen=True, slots=True)
class Shape:
    """Ranks by axis, in the order of AXES; an axis of one rank is left out, so that one GPU alone
    has none."""

    ranks: tuple[tuple[str, int], ...]

    @property
    def axes(self) -> frozenset[str]:
        """Its kinds of parallelism."""
        return frozenset(axis for axis, _ in self.ranks)

    @property
    def gpus(self) -> int:
        """The ranks of all axes together."""
        return math.prod(count for _, count in self.ranks)

    def __str__(self) -> str:
        return "x".join(f"{axis}{count}" for axis, count in self.ranks) or "dp1"


def shape_of(text: str) -> Shape:
    """The shape behind "pp2xdp2", whose axes may come in any order. Raises UsageError for anything
    else."""
    factors = [_FACTOR.fullmatch(factor) for factor in text.split("x")]
    ranks = {factor[1]: int(factor[2]) for factor in factors if factor}
    if len(ranks) < len(factors):
        raise UsageError(
            f"{text[:40]!r} is no shape: write {', '.join(AXES)} with a number of"
            " ranks, each at most once and joined by x, as in dp4,tp2xdp2"
        )
    if 1 in ranks.values() and ranks != {"dp": 1}:
        alone = next(axis for axis, count in ranks.items() if count == 1)
        raise UsageError(
            f"{text!r}: {alone}1 says nothing, for one rank shares nothing: leave it out, or write"
            " dp1 for one GPU alone"
        )
    return Shape(tuple((axis, ranks[axis]) for axis in AXES if ranks.get(axis, 1) > 1))


def shapes_of(texts: Iterable[str]) -> tuple[Shape, ...]:
    """The shapes behind these texts. Raises UsageError, also for one that comes twice."""
    shapes: list[Shape] = []
    for text in texts:
        try:
            shape = shape_of(text)
        except UsageError as error:
            raise UsageError(f"--dnn-shapes: {error}") from None
        if shape in shapes:
            raise UsageError(f"--dnn-shapes has {shape} twice: leave {text} out")
        shapes.append(shape)
    return tuple(shapes)


def splits_evenly(
    framework: str, ranks: int, options: Mapping[str, str | int | float | bool]
) -> bool:
    """Whether so many ranks make whole replicas of those that split each layer. Raises UsageError
    for a number that is wrong on any number of ranks."""
    width = int(options.get("ranks", 0))
    if width < 0 or width == 1:
        raise UsageError(
            f"--dnn-tp-ranks is {width}: give at least 2, or 0 for all ranks; with ddp and fsdp no"
            " layer is split"
        )
    return width == 0 or ranks % width == 0
