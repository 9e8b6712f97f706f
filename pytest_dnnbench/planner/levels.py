"""The levels of workers that a plan is made for: GPUs in a node, nodes in a rack."""

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import PlanError

MOST_WORKERS = 1 << 16
"""On one level. The search goes through all numbers of replicas, so more would take days."""

LEAST_BANDWIDTH = 1e-3
"""Bytes per second. Below it, quotients of the largest sizes would overflow."""


@dataclass(frozen=True, slots=True)
class Level:
    """`workers` units (GPUs, or nodes of GPUs), each with a link of `bandwidth` bytes per second to
    the other units."""

    workers: int
    bandwidth: float

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= MOST_WORKERS:
            raise PlanError(
                f"a level of {counted(self.workers, 'worker')} (GPUs, or nodes of GPUs): give at"
                f" least 1, and at most {MOST_WORKERS}, on every level"
            )
        # Infinity: transfers are free.
        if not self.bandwidth >= LEAST_BANDWIDTH:
            raise PlanError(
                f"bandwidth {self.bandwidth}: give bytes per second for every level, at least"
                f" {LEAST_BANDWIDTH:g}"
            )


def levels_of(workers: Sequence[int], bandwidths: Sequence[float]) -> tuple[Level, ...]:
    """Levels, innermost first. Raises PlanError unless every number of workers has one
    bandwidth."""
    if not workers or len(workers) != len(bandwidths):
        shape = "x".join(str(count) for count in workers)
        raise PlanError(
            f"bandwidths of {len(bandwidths)} levels, and workers of {len(workers)} ({shape}): give"
            " one bandwidth for each level, innermost first"
        )
    return tuple(
        Level(count, bandwidth) for count, bandwidth in zip(workers, bandwidths, strict=True)
    )
