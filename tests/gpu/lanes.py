"""Lanes: cases that the checks of this folder run one by one, each with its plan, its proof and its
launches, on ranks of one fork server.

A session of pytest takes 8 s to start beside a GPU, and says what failed at its end. A lane takes
its own time only, and its outcome is there at once. Every lane has a smaller form on CPU ranks: the
same code, so that a wrong name in it is found where there is no GPU.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.case_run import load, prepare_run
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.leases import Leases
from pytest_dnnbench.controller.machine import Machine, detect
from pytest_dnnbench.controller.placement import Placements
from pytest_dnnbench.controller.rank_launcher import RankLauncher
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.results.records.record import make_record
from pytest_dnnbench.run_length import Length
from pytest_dnnbench.step_form import PLAIN, StepForm

RANKS_PER_GPU = 4
GIVEN: dict[str, Scalar] = {"bandwidth": 1e9}
"""Of pipelines: a bandwidth that is given need not be measured."""


@dataclass(frozen=True)
class Lane:
    """A case on `ranks` ranks, which share a GPU where there are not enough.

    `steps` and `warmup` are its lengths on a GPU; on CPU ranks it has a few steps. `environment`
    are variables of its ranks, `timeout_s` bounds each of its launches.
    """

    framework: str
    model: str
    ranks: int
    options: Mapping[str, Scalar] = field(default_factory=dict)
    form: StepForm = PLAIN
    phase: str = "train"
    launches: int = 1
    image_size: int = 64
    batch_size: int = 16
    precision: str = "fp32"
    steps: Length = 12
    warmup: Length = 4
    predicted: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 60.0

    def on_cpu(self) -> "Lane":
        """Its form on CPU ranks."""
        return replace(
            self,
            image_size=min(self.image_size, 32),
            batch_size=min(self.batch_size, 4),
            precision="fp32",
            steps=2,
            warmup=1,
            timeout_s=300.0,
        )


@dataclass(frozen=True)
class LaneOutcome:
    """The record of a lane as plain data, and seconds by what they were spent on."""

    record: dict[str, Any]
    seconds: dict[str, float]

    def per_launch(self, metric: str) -> list[float]:
        """The values of a metric, a launch each."""
        return self.record["metrics"][metric]["per_launch"]  # type: ignore[no-any-return] # JSON

    def check_proof(self) -> None:
        """The step was proven, of every kind that was checked within its bound, and timed."""
        correctness = self.record["correctness"]
        assert correctness["checked"]
        for checked in correctness["checked"]:
            assert correctness["largest_deviation"][checked] <= correctness["tolerance"][checked]
        assert self.record["metrics"]["throughput"]["value"] > 0

    def figures(self) -> dict[str, object]:
        """What is kept of it beside its outcome."""
        kept = ("throughput", "allocated_peak_bytes", "cached_peak_bytes", "compile_s")
        metrics = self.record["metrics"]
        figures: dict[str, object] = {name: round(spent, 2) for name, spent in self.seconds.items()}
        figures |= {name: metrics[name]["value"] for name in kept if name in metrics}
        if prediction := self.record.get("prediction"):
            figures["prediction_error"] = prediction.get("error")
        return figures


RunLane = Callable[[Lane], LaneOutcome]
"""Runs a lane, and notes its figures beside the outcome of the check."""


class LaneBench:
    """Where lanes run: the devices of this machine, and one fork server."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        machine = detect(kind)
        self.machine: Machine = machine
        if kind == "cuda":
            self.machine = replace(machine, ranks_per_gpu=RANKS_PER_GPU)
        self.server = ForkServer()
        self._placements = Placements(
            self.machine,
            Leases(timeout_s=60, announce=print),
            (1, 2, 4),
            timed=True,
            side_by_side=False,
            server_pid=lambda: self.server.pid,
        )

    def ranks(self, lane: Lane) -> Ranks:
        """The ranks of a lane."""
        return Ranks(
            self.server,
            self.machine.places(lane.ranks),
            threads=self._placements.threads(lane.ranks),
            timeout_s=lane.timeout_s,
            environment=lane.environment,
            placements=self._placements,
        )

    def run(self, lane: Lane) -> LaneOutcome:
        """Plans, proves and launches a lane. Raises what any of it raises."""
        lane = lane if self.kind == "cuda" else lane.on_cpu()
        catalog = Catalog()
        spec = catalog.framework(lane.framework)
        case = Case(
            lane.framework,
            lane.model,
            lane.ranks,
            lane.phase,
            device=self.kind,
            image_size=lane.image_size,
            batch_size=lane.batch_size,
            precision=lane.precision,
            options=dict(lane.options),
            form=lane.form,
        )
        launcher = RankLauncher(
            self.ranks(lane), spec.planning, load(spec.rendezvous), None, spec.prediction
        )
        run = prepare_run(
            case, catalog, launcher, self.machine, steps=lane.steps, warmup=lane.warmup, data=None
        )
        run.predicted = lane.predicted
        begun_s = time.monotonic()
        run.prepare()
        prepared_s = time.monotonic()
        for _ in range(lane.launches):
            run.launch()
        ended_s = time.monotonic()
        assert run.correctness is not None
        proof_s = run.correctness.took_s or 0.0
        seconds = {
            "plan_s": prepared_s - begun_s - proof_s,
            "proof_s": proof_s,
            "launches_s": ended_s - prepared_s,
        }
        return LaneOutcome(msgspec.to_builtins(make_record(run.measurement())), seconds)


@contextmanager
def lane_bench(kind: str) -> Iterator[LaneBench]:
    """A bench whose fork server is ready, and ends with the `with`."""
    bench = LaneBench(kind)
    with bench.server as server:
        server.wait_ready()
        yield bench
