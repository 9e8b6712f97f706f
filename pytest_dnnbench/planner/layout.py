"""Layouts: which rank runs which replica of which stage, and the texts that stand for a layout.

Not here: what the ranks do (schedule.py) and which layout is best (predict.py).
"""

import math
from dataclasses import dataclass

from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.parsing import shortened

_DIGITS = 6
"""Of a number of replicas. Python refuses to read thousands of digits."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Ranks in stages: `replicas[s]` ranks run stage s. Ranks are numbered stage by stage."""

    replicas: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.replicas or min(self.replicas) < 1:
            raise PlanError(
                f"replicas {self.replicas}: give every stage at least one, for instance 2-1"
            )

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return sum(self.replicas)

    @property
    def last(self) -> int:
        """The number of the last stage."""
        return len(self.replicas) - 1

    def rank(self, stage: int, replica: int) -> int:
        """The rank of a stage's replica."""
        return sum(self.replicas[:stage]) + replica

    def place(self, rank: int) -> tuple[int, int]:
        """Stage and replica of a rank."""
        replica = rank
        for stage, replicas in enumerate(self.replicas):
            if replica < replicas:
                return stage, replica
            replica -= replicas
        raise PlanError(
            f"a pipeline {self} has {self.world_size} ranks, but this is rank {rank}: start as many"
        )

    def route(self, stage: int, minibatch: int) -> int:
        """The rank that runs a minibatch at a stage: replicas take turns."""
        return self.rank(stage, minibatch % self.replicas[stage])

    def links(self) -> list[tuple[int, int]]:
        """The pairs of ranks, in adjoining stages, that have a minibatch in common."""
        pairs = {
            (self.route(stage, minibatch), self.route(stage + 1, minibatch))
            for stage in range(self.last)
            for minibatch in range(math.lcm(*self.replicas[stage : stage + 2]))
        }
        return sorted(pairs)

    def __str__(self) -> str:
        return "-".join(map(str, self.replicas))


def stages_in(text: str) -> tuple[int, ...]:
    """The numbers in "3" (a number of stages) or "2-1" (replicas of each). Raises PlanError for any
    other text."""
    parts = text.split("-")
    if not all(part.isdecimal() and len(part) <= _DIGITS and int(part) for part in parts):
        raise PlanError(
            f"stages {shortened(repr(text))}: write a number of stages, or replicas of each as in"
            " 2-1, or auto"
        )
    return tuple(map(int, parts))


def layout_of(text: str, ranks: int) -> Layout:
    """The layout of `ranks` ranks that "3" (a number of stages, evenly replicated) or "2-1"
    (replicas of each stage) stands for. Raises PlanError when the number of ranks does not fit."""
    numbers = stages_in(text)
    if len(numbers) == 1:
        (stages,) = numbers
        if ranks % stages:
            raise PlanError(
                f"{ranks} ranks do not divide into {stages} stages: name replicas, for instance 2-1"
            )
        return Layout((ranks // stages,) * stages)
    layout = Layout(numbers)
    if layout.world_size != ranks:
        raise PlanError(
            f"stages {text} take {counted(layout.world_size, 'rank')}, not {ranks}: change one of"
            " them"
        )
    return layout
