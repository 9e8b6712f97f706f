"""The fabric that joins workers, and what a collective over it costs.

    level 0   GPU ─ GPU   GPU ─ GPU      a link of each GPU to the others of its node
    level 1   └─ node ──────── node ─┘   a link of each node to the other nodes

Bytes between two workers take the links of the outermost units that part them, one on each side;
what uses a link at the same time shares it. A ring of n over links of bandwidth B and latency a:

    all-gather, reduce-scatter of b bytes     (n - 1) (a + b / (n B))
    all-reduce, which is one after the other  twice that

Source: Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in
MPICH", 2005, sections 4.1, 4.4 and 4.5, where the time to add two numbers counts too; here it is in
B. Not here: when a collective runs (data_parallel.py, sharded.py).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.levels import Level

Workers = NDArray[np.int64]

Flows = NDArray[np.int64] | Sequence[tuple[int, int]]
"""Bytes from one worker to another, all at the same time: n pairs, or an array of n x 2."""

LinkEnds = tuple[int, Literal["out", "in"]]
"""The links of all units of a level, in one direction."""

Load = Mapping[LinkEnds, Workers]
"""How many flows use the link of each unit; what is not here, none uses."""


@dataclass(frozen=True, slots=True)
class CollectiveCost:
    """What one collective over all its ranks takes: `fixed_s`, and the bytes of the whole tensor
    (not of a rank's part of it) at `bytes_s` per second."""

    fixed_s: float = 0.0
    bytes_s: float = math.inf

    def seconds(self, size: float) -> float:
        """Of a tensor of this many bytes. Nothing to send takes no time."""
        return self.fixed_s + size / self.bytes_s if size else 0.0


FREE = CollectiveCost()
"""Between one rank and itself."""


def cost_through(small: tuple[float, float], large: tuple[float, float]) -> CollectiveCost:
    """The cost that two measurements lie on, each of (bytes, seconds). Where the large tensor took
    no longer than the small one, the noise is larger than the difference: the rate is then that of
    the large one alone."""
    (size, seconds), (most, longest) = small, large
    if longest <= seconds:
        return CollectiveCost(0.0, most / longest)
    bytes_s = (most - size) / (longest - seconds)
    return CollectiveCost(max(0.0, seconds - size / bytes_s), bytes_s)


@dataclass(frozen=True, slots=True)
class Link:
    """The slowest link of a route: its bytes per second, and the latency of a message."""

    bandwidth: float
    latency_s: float = 0.0

    def seconds(self, size: float) -> float:
        """Of one message."""
        return self.latency_s + size / self.bandwidth if size else 0.0

    def all_reduce(self, ranks: int) -> CollectiveCost:
        """Of a ring whose links are all like this one."""
        return self._ring(ranks, 2 * (ranks - 1))

    def all_gather(self, ranks: int) -> CollectiveCost:
        """Of a ring whose links are all like this one; a reduce-scatter costs the same."""
        return self._ring(ranks, ranks - 1)

    def _ring(self, ranks: int, rounds: int) -> CollectiveCost:
        if ranks == 1:
            return FREE
        return CollectiveCost(rounds * self.latency_s, self.bandwidth * ranks / rounds)


@dataclass(frozen=True, slots=True)
class Fabric:
    """Levels of workers, innermost first, and the latency of a message on each."""

    levels: tuple[Level, ...]
    latencies_s: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        latencies = self.latencies_s or (0.0,) * len(self.levels)
        if len(latencies) != len(self.levels):
            raise PlanError(
                f"latencies of {len(latencies)} levels, and workers of {len(self.levels)}: give one"
                " latency for each level, innermost first"
            )
        if not all(0 <= latency < math.inf for latency in latencies):
            raise PlanError(f"latencies {latencies}: give seconds, at least 0 and finite")
        object.__setattr__(self, "latencies_s", tuple(latencies))

    @property
    def workers(self) -> int:
        """On all levels together."""
        return math.prod(level.workers for level in self.levels)

    def load(self, flows: Flows) -> Load:
        """How many of these flows use each link end, all at the same time."""
        load: dict[LinkEnds, Workers] = {}
        for level, senders, receivers in self._ends(flows):
            load[level, "out"] = np.bincount(senders)
            load[level, "in"] = np.bincount(receivers)
        return load

    def ring(self, ranks: Sequence[int] | Workers, load: Load | None = None) -> Link:
        """The slowest link of a ring through these workers in this order, under the load of all
        rings that run, this one among them; by default it alone."""
        hops = hops_of(ranks)
        return self.slowest(hops, self.load(hops) if load is None else load)

    def slowest(self, flows: Flows, load: Load) -> Link:
        """The slowest share that one of the `flows` has of its links under a load, of which they
        are a part."""
        slowest = Link(math.inf)
        for level, senders, receivers in self._ends(flows):
            sharing = max(load[level, "out"][senders].max(), load[level, "in"][receivers].max())
            slowest = Link(
                min(slowest.bandwidth, self.levels[level].bandwidth / int(sharing)),
                max(slowest.latency_s, self.latencies_s[level]),
            )
        return slowest

    def _ends(self, flows: Flows) -> Iterator[tuple[int, Workers, Workers]]:
        """By level, the units whose links flows leave and those whose links they come in by. A flow
        from a worker to itself uses none."""
        pairs = np.asarray(flows, dtype=np.int64).reshape(-1, 2)
        sources, targets = pairs[pairs[:, 0] != pairs[:, 1]].T
        units = 1
        for number, level in enumerate(self.levels):
            outer = units * level.workers
            here = sources // outer == targets // outer
            if here.any():
                yield number, sources[here] // units, targets[here] // units
            sources, targets, units = sources[~here], targets[~here], outer


def hops_of(ranks: Sequence[int] | Workers) -> Workers:
    """The flows of a ring through these workers in this order, an array of n x 2."""
    ring = np.asarray(ranks, dtype=np.int64)
    hops = np.stack([ring, np.roll(ring, -1)], axis=1)
    return hops if len(ring) > 1 else hops[:0]
