"""The fault matrix: every fault in every rank phase of every framework, and the error that each
must become. Data, and the check of an outcome."""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.case_run import CaseRun, load, prepare_run
from pytest_dnnbench.controller.forkserver import START_TIMEOUT_S, ForkServer
from pytest_dnnbench.controller.job import Rendezvous, no_rendezvous
from pytest_dnnbench.controller.machine import detect
from pytest_dnnbench.controller.rank_launcher import RankLauncher
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import (
    DnnbenchError,
    NodeLost,
    RankCrashed,
    RankFailure,
    RankHung,
    RankOutOfMemory,
    RankRaised,
    WrongResult,
)
from pytest_dnnbench.frames import SpawnMessage
from pytest_dnnbench.proc import process_fields
from tests.patience import HANG_S, TIME_OUTS_S
from tests.sockets import listening

FRAMEWORKS = {"single": "Single", "ddp": "Ddp", "horovod": "Horovod", "pipedream": "PipeDream"}
"""Framework to its class in planting.py."""

RANK_PHASES = ("import", "group", "build", "proof", "warm-up", "timed steps", "report", "teardown")

NAMES = {
    RankRaised: "raised",
    RankCrashed: "crashed",
    RankHung: "hung",
    RankOutOfMemory: "out of memory",
    WrongResult: "wrong result",
    NodeLost: "node lost",
}

WITH_WEIGHTS = ("build", "proof", "warm-up", "timed steps")


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault: the error that it must become, what the message must show, and the rank phases and
    frameworks in which it makes sense."""

    kind: type[DnnbenchError]
    shows: str
    rank_phases: tuple[str, ...] = RANK_PHASES
    frameworks: tuple[str, ...] = tuple(FRAMEWORKS)


SEVERAL = ("ddp", "horovod", "pipedream")

FAULTS: Mapping[str, Fault] = {
    "exception": Fault(RankRaised, "in _raise\n"),
    "SIGKILL": Fault(RankCrashed, "died of SIGKILL"),
    "SIGSTOP": Fault(RankHung, "was stopped by a signal"),
    "skipped collective": Fault(
        RankHung, "in wait\n", tuple(p for p in RANK_PHASES if p != "import"), SEVERAL
    ),
    "out of memory": Fault(RankOutOfMemory, "in _use_up_memory\n"),
    "NaN loss": Fault(WrongResult, "nan", WITH_WEIGHTS),
    "SIGSEGV": Fault(RankCrashed, "died of SIGSEGV"),
    "abort": Fault(RankCrashed, "died of SIGABRT"),
    "flood of output": Fault(RankHung, "in _flood\n"),
    "exit 0": Fault(RankCrashed, "ended with status 0"),
    "another model": Fault(WrongResult, "rank 1", (*WITH_WEIGHTS, "report"), SEVERAL),
}

SENSELESS = {
    ("another model", rank_phase, "pipedream"): "no other rank holds the same weights"
    for rank_phase in RANK_PHASES[4:]
}
"""Further combinations that are impossible, each with its reason."""

ALLOWED_S = 60.0
"""How much longer than the time-outs of its proof and its launch a failure may take."""


def combinations() -> list[tuple[str, str, str]]:
    """Every (fault, rank phase, framework) that makes sense."""
    return [
        (name, rank_phase, framework)
        for framework in FRAMEWORKS
        for name, fault in FAULTS.items()
        for rank_phase in RANK_PHASES
        if rank_phase in fault.rank_phases
        and framework in fault.frameworks
        and (name, rank_phase, framework) not in SENSELESS
    ]


@dataclass(frozen=True, slots=True)
class Planted:
    """The error that a planted fault has become, the seconds that it took, and the time-out of the
    proof and of the launch."""

    error: DnnbenchError
    took_s: float
    timeout_s: float


class Watched(ForkServer):
    """A fork server that remembers its ranks."""

    def __init__(self, preload: tuple[str, ...]) -> None:
        super().__init__(preload)
        self.ranks: dict[int, str] = {}

    def spawn(
        self,
        message: SpawnMessage,
        descriptors: Sequence[int],
        timeout_s: float = START_TIMEOUT_S,
    ) -> int:
        """As ForkServer.spawn."""
        pid = super().spawn(message, descriptors, timeout_s)
        self.ranks[pid] = _born(pid)
        return pid


@dataclass(frozen=True, slots=True)
class Plant:
    """A rendezvous that adds to the environment of each rank what planting.py shall do on it."""

    real: Rendezvous | None
    fault: str = "none"
    rank_phase: str = "nowhere"

    @contextmanager
    def __call__(self, world_size: int) -> Iterator[list[dict[str, str]]]:
        with (self.real or no_rendezvous)(world_size) as environments:
            yield [
                {
                    **environment,
                    "PLANTED_FAULT": f"{self.fault}@{self.rank_phase}",
                    "PLANTED_HERE": str(int(rank == world_size - 1)),
                }
                for rank, environment in enumerate(environments)
            ]


class Field:
    """Where faults are planted: the cases of all frameworks on one fork server."""

    def __init__(self, server: Watched, cache: Path) -> None:
        self.server = server
        self.cache = cache
        self.plans: dict[str, dict[str, Any] | None] = {}
        self.machine = detect("cpu")

    def run(self, framework: str, plant: Plant | None = None, timeout_s: float = HANG_S) -> CaseRun:
        """A fresh run of the framework's case; its last rank is the culprit. Planned once for
        all."""
        world = 1 if framework == "single" else 2
        options: dict[str, Any] = {"stages": "2"} if framework == "pipedream" else {}
        case = Case(
            framework,
            "tests.tiny_models:tiny",
            world,
            "train",
            image_size=28,
            batch_size=8,
            options=options,
        )
        environment = {"XDG_CACHE_HOME": str(self.cache)}  # for profiles
        ranks = Ranks(
            self.server, ["cpu"] * world, threads=1, timeout_s=timeout_s, environment=environment
        )
        spec = Catalog().framework(framework)
        launcher = RankLauncher(ranks, spec.planning, plant or Plant(load(spec.rendezvous)))
        run = prepare_run(case, Catalog(), launcher, self.machine, steps=3, warmup=2, data=None)
        if framework not in self.plans:
            self.plans[framework] = launcher.plan(run.request)
        worker = f"tests.faults.planting:{FRAMEWORKS[framework]}"
        run.request = replace(run.request, worker=worker, plan=self.plans[framework])
        return run

    def sound(self, framework: str) -> CaseRun:
        """A run without a fault, proven and launched."""
        run = self.run(framework)
        run.launch()
        return run

    def plant(self, fault: str, rank_phase: str, framework: str) -> Planted:
        """What a planted fault becomes; of a hang, with the first time-out in which the ranks get
        as far."""
        real = load(Catalog().framework(framework).rendezvous)
        hangs = FAULTS[fault].kind is RankHung
        for timeout_s in TIME_OUTS_S if hangs else [HANG_S]:
            run = self.run(framework, Plant(real, fault, rank_phase), timeout_s)
            start = time.monotonic()
            try:
                run.launch()
            except DnnbenchError as error:
                planted = Planted(error, time.monotonic() - start, timeout_s)
                if not isinstance(error, RankHung) or error.rank_phase == rank_phase:
                    break
            else:
                raise AssertionError(f"{fault} in {rank_phase} of {framework} went unnoticed")
        return planted


def wrong(fault: str, rank_phase: str, framework: str, planted: Planted) -> list[str]:
    """What is wrong with the error that a planted fault has become; empty if it is right."""
    expected, culprit = FAULTS[fault], 0 if framework == "single" else 1
    mistakes, error = [], planted.error
    if type(error) is not expected.kind:
        mistakes.append(f"{type(error).__name__} instead of {expected.kind.__name__}")
    shows = "deviates" if fault == "NaN loss" and rank_phase == "proof" else expected.shows
    if shows not in str(error):
        mistakes.append(f"{shows!r} is not shown")
    if isinstance(error, RankFailure):
        if error.rank != culprit:
            mistakes.append(f"rank {error.rank} is blamed instead of {culprit}")
        if error.rank_phase != rank_phase:
            mistakes.append(f"the rank phase is {error.rank_phase!r}")
        if "last words of the culprit" not in error.output and fault != "flood of output":
            mistakes.append("its last output is missing")
        if fault == "flood of output" and "a flood of output" not in error.output:
            mistakes.append("its last output is missing")
    elif rank_phase != "proof" and f"rank {culprit}" not in str(error):
        mistakes.append("the culprit is not named")
    if planted.took_s > 2 * planted.timeout_s + ALLOWED_S:
        mistakes.append(f"it took {planted.took_s:.1f} s")
    return mistakes


def _born(pid: int) -> str:
    """When a process was started, which distinguishes it from a later one of the same number;
    empty if it is gone."""
    try:
        return process_fields(pid)[19]
    except OSError:
        return ""


def left_behind(server: Watched) -> list[str]:
    """Processes, listening ports, temporary files and shared memory that should be gone."""
    left = [f"process {pid}" for pid, born in server.ranks.items() if born and _born(pid) == born]
    left += [str(path) for path in Path(tempfile.gettempdir()).glob(f"dnnbench-{os.getpid()}-*")]
    left += [
        str(path)
        for path in Path("/dev/shm").iterdir()
        if any(f"_{pid}_" in path.name for pid in server.ranks)
    ]
    return left + [f"port {port}" for port in listening(os.getpid())]
