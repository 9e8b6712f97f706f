"""Placements: where a launch runs. Which devices it leases, what its ranks get of them, and who
disturbed it.

                    CUDA                    CPU, timed           CPU, timed, --dnn-parallel   CPU, only proven, under -n
    leased          one GPU per rank        every core           threads x ranks cores        one core per rank
    threads/rank    cores / ranks           cores / ranks        cores / highest count        1
    pinned          no                      no                   to the leased cores          to the leased cores

Ranks that outnumber the cores lease every core. Under a CPU quota cores are places without a
number: nobody is pinned, and foreign load is not told. A session that only proves, but without
xdist, is like a timed one: nothing runs beside its ranks, so they get all threads.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pytest_dnnbench.controller.devices import Machine
from pytest_dnnbench.controller.disturbance import Watch
from pytest_dnnbench.controller.leases import Leases


@dataclass
class Placement:
    """The place of one launch. `cores` are those its ranks are pinned to; empty: all of the
    session's.

    `conditions` are plain data for the launch's entry in the record, complete once the launch is
    over.
    """

    devices: tuple[str, ...]
    threads: int
    cores: tuple[int, ...] = ()
    watch: Watch | None = None
    conditions: dict[str, Any] = field(default_factory=dict)

    def reported(self) -> None:
        """Every rank has reported and none has ended yet: GPUs are as they were in the timed
        window."""
        if self.watch:
            self.watch.look_at_gpus()


class Placements:
    """Gives each launch of a session its placement. `counts` are the session's device counts."""

    def __init__(
        self,
        machine: Machine,
        leases: Leases,
        counts: tuple[int, ...],
        *,
        timed: bool,
        side_by_side: bool,
        server_pid: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.machine = machine
        self.leases = leases
        self.counts = counts
        self.timed = timed
        self.side_by_side = side_by_side
        self.server_pid = server_pid

    @contextmanager
    def __call__(self, world_size: int) -> Iterator[Placement]:
        """The placement of a launch of so many ranks; waits until it is free."""
        names, count = self._wanted(world_size)
        with self.leases.take(list(names), count) as taken:
            chosen = [names[name] for name in taken]
            placement = self._placement(world_size, chosen)
            if self.timed:
                gpus = (
                    [self.machine.gpus[index] for index in chosen]
                    if self.machine.kind == "cuda"
                    else []
                )
                cores = self.machine.core_numbers if gpus else tuple(chosen)
                placement.watch = Watch(
                    [gpu.uuid for gpu in gpus],
                    () if self.machine.under_quota else cores,
                    self.server_pid,
                )
            try:
                yield placement
            finally:
                placement.conditions = self._conditions(placement, chosen)

    def threads(self, world_size: int) -> int:
        """Compute threads of one rank."""
        if not self.side_by_side or self.machine.kind == "cuda":
            return self.machine.threads(world_size)
        return self.machine.threads(max(world_size, *self.counts)) if self.timed else 1

    def _wanted(self, world_size: int) -> tuple[dict[str, int], int]:
        """The devices to choose from, name to number, and how many of them the launch needs."""
        if self.machine.kind == "cuda":
            return {
                f"gpu {gpu.uuid}": index for index, gpu in enumerate(self.machine.gpus)
            }, world_size
        cores = {f"core {number}": number for number in self.machine.core_numbers}
        needed = world_size * self.threads(world_size) if self.side_by_side else len(cores)
        return cores, min(needed, len(cores))

    def _placement(self, world_size: int, chosen: list[int]) -> Placement:
        if self.machine.kind == "cuda":
            return Placement(tuple(f"cuda:{index}" for index in chosen), self.threads(world_size))
        all_of_them = len(chosen) == len(self.machine.core_numbers)
        pinned = () if all_of_them or self.machine.under_quota else tuple(chosen)
        return Placement(("cpu",) * world_size, self.threads(world_size), pinned)

    def _conditions(self, placement: Placement, chosen: list[int]) -> dict[str, Any]:
        if self.machine.kind == "cuda":
            conditions: dict[str, Any] = {
                "gpu_uuids": [self.machine.gpus[index].uuid for index in chosen]
            }
        else:
            conditions = {"cores": chosen}
        return conditions | (placement.watch.finish() if placement.watch else {})
