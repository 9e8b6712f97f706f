"""Functions to time, of which tests know what they take and do."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from pytest_dnnbench.messages import Place

SETUP_S = 0.2


class Sleeps:
    """Takes SETUP_S to make, and notes when it was made; a step of rank r takes r + 1 times `ms`
    milliseconds."""

    def __init__(self, ms: int, folder: str, place: Place) -> None:
        time.sleep(SETUP_S)
        self._step_s = ms * (place.rank + 1) / 1e3
        (Path(folder) / f"made-{place.rank}").write_text(repr(time.monotonic()))

    def __call__(self) -> None:
        time.sleep(self._step_s)


def counts(first: int, later: int) -> Callable[[], int | None]:
    """Its first step returns `first`, the later ones `later`; 0 stands for nothing at all."""
    returned = iter([first])

    def step() -> int | None:
        return next(returned, later) or None

    return step


def returns_text() -> Callable[[], Any]:
    """Its step returns text."""
    return lambda: "fast"


def is_no_step(size: int) -> int:
    """Returns no step."""
    return size


def fails_on_rank_1(place: Place) -> Callable[[], None]:
    """Cannot be made on rank 1."""
    if place.rank == 1:
        raise OSError("no such shard: 1")
    return dist.barrier


class Sum:
    """The sum over the ranks of `size` bytes of ones; `off` is added to it afterwards."""

    def __init__(self, size: int, off: float = 0.0) -> None:
        self.size, self.off = size, off
        self.tensor = torch.ones(size // 4)

    def __call__(self) -> int:
        self.tensor.fill_(1.0)
        dist.all_reduce(self.tensor)
        self.tensor += self.off
        return self.size


def check_sum(step: Sum) -> None:
    """The sum is the number of ranks, on every rank."""
    step()
    assert bool((step.tensor == dist.get_world_size()).all())


without_signature = torch.zeros
"""Python cannot say what it takes."""


class SizeOfItsOwn(Sum):
    """Counts another size on each rank."""

    def __call__(self) -> int:
        return super().__call__() + dist.get_rank()


def draws(source: str) -> Callable[[], int]:
    """A step counts what a generator drew by the seed of its rank."""
    sources = {
        "torch": lambda: int(torch.randint(1, 1 << 30, ())),
        "python": lambda: random.randrange(1, 1 << 30),
        "numpy": lambda: int(np.random.randint(1, 1 << 30)),
    }
    drawn = sources[source]()
    return lambda: drawn
