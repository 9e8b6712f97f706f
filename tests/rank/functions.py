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
from tests.worked_clock import CLOCK

SETUP_S = 0.2

FAST_S, SLOW_S = 0.005, 0.06
"""The second is long beside a small step."""


class Sleeps:
    """Takes SETUP_S to make, and notes when it was made; a step of rank 0 takes FAST_S, one of
    another rank SLOW_S."""

    def __init__(self, folder: str, place: Place) -> None:
        time.sleep(SETUP_S)
        self._step_s = SLOW_S if place.rank else FAST_S
        (Path(folder) / f"made-{place.rank}").write_text(repr(time.monotonic()))

    def __call__(self) -> None:
        time.sleep(self._step_s)


def works(steps_per_second: int) -> Callable[[], None]:
    """Its step takes time on CLOCK alone."""
    return lambda: CLOCK.work(1 / steps_per_second)


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


class Planted:
    """A small step whose loader, operator, exchange or host is slow where `cause` says so."""

    def __init__(self, cause: str = "") -> None:
        self.cause = cause
        self.large, self.square = torch.ones(1 << 22), torch.full((256, 256), 1e-3)
        loader = torch.utils.data.DataLoader(_Samples(cause == "loader"), batch_size=None)
        self.batches = iter(loader)

    def __call__(self) -> None:
        small = next(self.batches) @ self.square
        for _ in range(20 if self.cause == "operator" else 0):
            small = small @ self.square
        dist.all_reduce(self.large if self.cause == "collective" else small)
        if self.cause == "host":
            time.sleep(SLOW_S)


class _Samples(torch.utils.data.Dataset[torch.Tensor]):
    """More samples than a launch has steps; each takes a while where `slow`."""

    def __init__(self, slow: bool) -> None:
        self._slow = slow

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, index: int) -> torch.Tensor:
        if self._slow:
            time.sleep(SLOW_S)
        return torch.ones(256, 256)


class Waits:
    """Products of matrices that a GPU runs one after the other, `times` of which the host waits
    for; what it does after each wait, the GPU waits for."""

    def __init__(self, times: int, place: Place) -> None:
        self.times = times
        self.square = torch.full((1024, 1024), 1e-3, device=place.device)

    def __call__(self) -> None:
        product = self.square
        for number in range(40):
            product = product @ self.square
            if number < self.times:
                product[0, 0].item()


class Exchange:
    """Sends to the next rank and receives from the one before."""

    def __init__(self, place: Place) -> None:
        self.rank, self.ranks, self.source = place.rank, place.world_size, torch.ones(1 << 16)
        self.target = torch.zeros(1 << 16)

    def __call__(self) -> None:
        after, before = (self.rank + 1) % self.ranks, (self.rank - 1) % self.ranks
        waiting = dist.isend(self.source, after)
        dist.recv(self.target, before)
        assert waiting is not None
        waiting.wait()
