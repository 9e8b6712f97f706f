"""Placements: where a launch runs. Which devices it leases, and what its ranks get of them.

                    CUDA              CPU, timed      CPU, timed,            CPU, only proven,
                                                      --dnn-parallel         under -n
    leased          one GPU per rank* every core      threads x ranks cores  one core per rank
    threads/rank    cores / ranks     cores / ranks   cores / highest count  1
    pinned          to the cores      no              to the leased cores    to the leased cores
                    near its GPU

* With --dnn-ranks-per-gpu N, N successive ranks share a GPU. NCCL refuses two ranks on one GPU, so
each gets another NCCL_HOSTID: it then takes them for ranks of different hosts, which meet through
sockets on loopback.

If ranks outnumber the cores, a launch leases every core. Under a CPU quota the number of a core
means nothing: no rank is pinned, and the load of other processes is not known. A session without
xdist that only proves is placed like a timed one: nothing runs beside its ranks, so they get all
threads.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from pytest_dnnbench.controller.disturbance import NoWatch, Watch
from pytest_dnnbench.controller.gpu_samples import GpuSamples
from pytest_dnnbench.controller.leases import Leases
from pytest_dnnbench.controller.machine import Machine
from pytest_dnnbench.controller.route import Host
from pytest_dnnbench.controller.this_node import LaunchNode
from pytest_dnnbench.results.records.schema import Conditions


@dataclass(frozen=True, slots=True)
class NodeShare:
    """One node's share of a launch: so many ranks of it, and how the others reach it."""

    node: LaunchNode
    host: Host


@dataclass
class Placement:
    """The place of one launch.

    `devices` holds one torch device per rank ("cpu" or "cuda:INDEX"); `threads` the compute threads
    of each rank. `cores` are those that ranks are pinned to; empty: all of the session's.
    `rank_cores`, where there are any, pin each rank to the cores near its GPU; `gpu_uuids` are
    those that CUDA must report for the ranks' GPUs, empty on CPU ranks and for slices, which have
    others. `rank_variables`, where there are any, are environment variables of each rank that this
    launch alone has. `conditions` are complete once the launch is over, and `gpu_samples`, those of
    each node in the order of its ranks, by the node's own clock.

    Of a launch on nodes, `shares` says which ranks run on which, in the order of the ranks; empty:
    all of them on this machine.
    """

    devices: tuple[str, ...]
    threads: int
    cores: tuple[int, ...] = ()
    watch: Watch | NoWatch = field(default_factory=NoWatch)
    conditions: Conditions = field(default_factory=Conditions)
    gpu_uuids: tuple[str, ...] = ()
    rank_cores: tuple[tuple[int, ...], ...] = ()
    rank_variables: tuple[dict[str, str], ...] = ()
    shares: tuple["NodeShare", ...] = ()
    gpu_samples: tuple[GpuSamples, ...] = ()

    def cores_of(self, rank: int) -> tuple[int, ...]:
        """The cores that a rank is pinned to; empty: all of the session's."""
        return self.rank_cores[rank] if self.rank_cores else self.cores

    def variables_of(self, rank: int) -> dict[str, str]:
        """The environment variables of a rank that this launch alone has."""
        return self.rank_variables[rank] if self.rank_variables else {}

    def sharing(self, rank: int, of_node: range) -> int:
        """How many ranks have this rank's GPU, itself too, of those on its node; 1 on a CPU."""
        own = self.devices[rank]
        return 1 if own == "cpu" else [self.devices[each] for each in of_node].count(own)


PlacementSource = Callable[[int], AbstractContextManager[Placement]]
"""Given the world size: the placement of one launch, held while the launch lasts."""


@contextmanager
def _without_leases(names: Sequence[str], count: int) -> Iterator[tuple[str, ...]]:
    yield tuple(names[:count])


class Placements:
    """Gives each launch of a session its placement. `counts` are the session's device counts,
    `timed` says whether it times its cases, `side_by_side` whether it runs several at a time;
    `own_threads` are the compute threads of each rank, where the user gives them."""

    def __init__(
        self,
        machine: Machine,
        leases: Leases,
        counts: tuple[int, ...],
        *,
        timed: bool,
        side_by_side: bool,
        server_pid: Callable[[], int | None] = lambda: None,
        own_threads: int | None = None,
    ) -> None:
        self.machine = machine
        self.leases = leases
        self.counts = counts
        self.timed = timed
        self.side_by_side = side_by_side
        self.server_pid = server_pid
        self.own_threads = own_threads

    @contextmanager
    def __call__(self, world_size: int, *, leased: bool = False) -> Iterator[Placement]:
        """The placement of a launch; waits until its devices are free. Raises LaunchError when the
        wait takes too long. `leased`: somebody else has taken these leases for the launch."""
        numbers, count = self._candidates(world_size)
        take = _without_leases if leased else self.leases.take
        with take(list(numbers), count) as names:
            devices = tuple(numbers[name] for name in names)
            placement = self._placement(world_size, devices)
            try:
                yield placement
            finally:
                placement.conditions = self._conditions(placement, devices)
                placement.gpu_samples = (placement.watch.samples,)

    def threads(self, world_size: int) -> int:
        """Compute threads of one rank."""
        if self.own_threads is not None:
            return self.own_threads
        if not self.side_by_side or self.machine.kind == "cuda":
            return self.machine.threads(world_size)
        return self.machine.threads(max(world_size, *self.counts)) if self.timed else 1

    def _candidates(self, world_size: int) -> tuple[dict[str, int], int]:
        """The devices to choose from, name to number, and how many of them the launch needs."""
        if self.machine.kind == "cuda":
            gpus = {f"gpu {gpu.uuid}": index for index, gpu in enumerate(self.machine.gpus)}
            return gpus, self.machine.gpus_for(world_size)
        cores = {f"core {number}": number for number in self.machine.core_numbers}
        needed = world_size * self.threads(world_size) if self.side_by_side else len(cores)
        return cores, min(needed, len(cores))

    def _placement(self, world_size: int, leased: tuple[int, ...]) -> Placement:
        threads, watch = self.threads(world_size), self._watch(leased)
        if self.machine.kind == "cuda":
            # The leased GPU of each rank.
            of_ranks = [leased[rank // self.machine.ranks_per_gpu] for rank in range(world_size)]
            return self._on_gpus(of_ranks, threads, watch)
        every_core = len(leased) == len(self.machine.core_numbers)
        pinned = () if every_core or self.machine.under_quota else leased
        return Placement(("cpu",) * world_size, threads, pinned, watch)

    def _on_gpus(self, leased: Sequence[int], threads: int, watch: Watch | NoWatch) -> Placement:
        """Each rank on the cores near its GPU. Ranks with the same cores share them: no more
        threads than cores."""
        gpus = [self.machine.gpus[index] for index in leased]
        near = [gpu.cores for gpu in gpus]
        every = set(self.machine.affinity)
        if self.machine.under_quota or not all(near) or all(set(cores) == every for cores in near):
            near = []
        share = [len(cores) // near.count(cores) for cores in near]
        return Placement(
            tuple(f"cuda:{index}" for index in leased),
            self.own_threads or max(1, min([threads, *share])),
            watch=watch,
            gpu_uuids=tuple("" if gpu.sliced else gpu.uuid for gpu in gpus),
            rank_cores=tuple(near),
            rank_variables=_apart(len(leased)) if len(set(leased)) < len(leased) else (),
        )

    def _watch(self, leased: tuple[int, ...]) -> Watch | NoWatch:
        if not self.timed:
            return NoWatch()
        # Ranks on GPUs lease no cores, so the load is that of all cores.
        cores = self.machine.core_numbers if self.machine.kind == "cuda" else leased
        watched = () if self.machine.under_quota else cores
        return Watch(self._uuids(leased), watched, self.server_pid)

    def _uuids(self, leased: Sequence[int]) -> tuple[str, ...]:
        """Those of the leased GPUs; empty on CPU ranks."""
        if self.machine.kind != "cuda":
            return ()
        return tuple(self.machine.gpus[index].uuid for index in leased)

    def _conditions(self, placement: Placement, leased: tuple[int, ...]) -> Conditions:
        observation = placement.watch.finish()
        return Conditions(
            disturbed=observation.disturbed,
            others_cores=observation.others_cores,
            cores=() if self.machine.kind == "cuda" else leased,
            gpu_uuids=self._uuids(leased),
            rank_cores=placement.rank_cores,
            gpu_before=observation.gpu_before,
            gpu_after=observation.gpu_after,
        )


def _apart(ranks: int) -> tuple[dict[str, str], ...]:
    """Lets NCCL take the ranks of this launch for ranks of different hosts."""
    return tuple({"NCCL_HOSTID": f"dnnbench-rank{rank}"} for rank in range(ranks))
