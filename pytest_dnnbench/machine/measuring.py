"""Measures a machine: yardstick, memory, the link between two ranks, and A/A launches of a small
case, all on fresh ranks as in a session."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.collectives import bus_factor
from pytest_dnnbench.controller.case_run import prepare_run
from pytest_dnnbench.controller.forkserver import PRELOAD, ForkServer
from pytest_dnnbench.controller.leases import Leases
from pytest_dnnbench.controller.machine import Machine
from pytest_dnnbench.controller.placement import Placements
from pytest_dnnbench.controller.rank_launcher import (
    MEASURE_GPU,
    MEASURE_MACHINE,
    RankLauncher,
)
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import LaunchError
from pytest_dnnbench.metrics import THROUGHPUT
from pytest_dnnbench.results.records.record import make_record
from pytest_dnnbench.results.records.schema import Record
from pytest_dnnbench.run_length import AUTO, TIMED_STEPS

MEMORY = "pytest_dnnbench.rank.machine_speed:copied_bytes_s"
IN_GROUP = "pytest_dnnbench.rank.group:call"
LINK = ("pytest_dnnbench.rank.machine_speed", "all_reduce_s", None)
REDUCED_BYTES = 16 * 2**20
"""Of the all-reduce: what the rank's side has too (tests/machine/test_measuring.py)."""

LINKED = 2
"""Ranks of the all-reduce."""

YARDSTICKS = 5
FEWEST_LAUNCHES, MOST_LAUNCHES = 5, 40
TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class MachineSpeeds:
    """A machine's speeds, and the record of the A/A launches. Rates are in bytes per second; the
    yardstick in seconds, each time."""

    yardstick_s: list[float]
    memory_bytes_s: float
    link_bytes_s: float | None
    record: Record

    @property
    def throughputs(self) -> list[float]:
        """Of the launches that were not disturbed."""
        return self.record.undisturbed(THROUGHPUT)


def measure_machine(
    machine: Machine,
    seconds: float,
    *,
    model: str,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> MachineSpeeds:
    """Measures for about so many seconds; `say` hears what is done. Raises RankFailure, LaunchError
    or UsageError."""
    end = clock() + seconds
    with ForkServer(PRELOAD) as server:
        ranks = partial(_ranks, server, _placements(machine, server, say))
        cores = ranks(["cpu"])
        say("yardstick, memory, link")
        if machine.kind == "cuda":
            all_gpus = ranks(machine.places(len(machine.gpus) * machine.ranks_per_gpu))
            yardsticks = [_slowest_gpu(all_gpus) for _ in range(YARDSTICKS)]
        else:
            yardsticks = [
                float(cores.launch(MEASURE_MACHINE, returns=float)[0]) for _ in range(YARDSTICKS)
            ]
        memory = float(cores.launch(MEMORY, returns=float)[0])
        has_link = machine.shortage(LINKED) is None and not machine.oversubscribed(LINKED)
        link = _link(ranks(["cpu"] * LINKED)) if has_link else None
        launcher = RankLauncher(
            ranks(machine.places(1)), machine_ranks=cores if machine.kind == "cpu" else None
        )
        return MachineSpeeds(
            yardsticks, memory, link, _launches(machine, launcher, model, end, say, clock)
        )


def _placements(machine: Machine, server: ForkServer, say: Callable[[str], None]) -> Placements:
    """Where ranks run, each alone on its devices."""
    return Placements(
        machine,
        Leases(timeout_s=TIMEOUT_S, announce=say),
        (1, LINKED),
        timed=True,
        side_by_side=False,
        server_pid=lambda: server.pid,
    )


def _ranks(server: ForkServer, placements: Placements, devices: Sequence[str]) -> Ranks:
    """Ranks on devices."""
    threads = placements.threads(len(devices))
    return Ranks(server, devices, threads=threads, timeout_s=TIMEOUT_S, placements=placements)


def _slowest_gpu(gpus: Ranks) -> float:
    """Seconds of the yardstick on the slowest of all GPUs. Raises LaunchError where one has no
    memory for it."""
    seconds: list[float | None] = gpus.launch(MEASURE_GPU, returns=float | None)
    measured = [each for each in seconds if each is not None]
    if len(measured) < len(seconds):
        raise LaunchError(
            "a GPU has too little free memory for the yardstick (350 MB): end what else uses it"
        )
    return max(measured)


def _link(pair: Ranks) -> float:
    """The bus bandwidth; the slower rank's clock counts."""
    slowest = max(map(float, pair.launch(IN_GROUP, LINK, returns=float)))
    return bus_factor("all_reduce", LINKED) * REDUCED_BYTES / slowest


def _launches(
    machine: Machine,
    launcher: RankLauncher,
    model: str,
    end: float,
    say: Callable[[str], None],
    clock: Callable[[], float],
) -> Record:
    """A/A launches of a small case until the time is over, at least FEWEST_LAUNCHES."""
    case = Case("single", model, 1, "train", device=machine.kind)
    run = prepare_run(case, Catalog(), launcher, machine, steps=TIMED_STEPS, warmup=AUTO, data=None)
    run.with_yardstick = True
    while len(run.launches) < MOST_LAUNCHES:
        if len(run.launches) >= FEWEST_LAUNCHES and clock() >= end:
            break
        say(f"launch {len(run.launches) + 1} of {case.id}")
        run.launch()
    return make_record(run.measurement())
