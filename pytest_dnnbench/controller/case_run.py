"""From a case to its measurement: proves the step, launches the ranks, collects what they
report."""

import importlib
import importlib.metadata
import os
import platform
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.devices import Machine
from pytest_dnnbench.controller.ranks import Ranks, Rendezvous
from pytest_dnnbench.errors import LaunchError
from pytest_dnnbench.messages import RankReport, RunRequest
from pytest_dnnbench.metrics import YARDSTICK
from pytest_dnnbench.mnist_files import MnistFiles
from pytest_dnnbench.results.records.measurement import Launch, Measurement, agree, same_model

PROVE = "pytest_dnnbench.rank.timed_run:prove"
MEASURE = "pytest_dnnbench.rank.timed_run:measure"
MEASURE_MACHINE = "pytest_dnnbench.rank.yardstick:measure"

ATTEMPTS = 3
"""Launches that are made for one in which the machine is not suspended."""

ASLEEP_S = 0.01
"""A sleep of the machine that spoils a launch; two readings of the clocks differ by far less."""


@dataclass
class CaseRun:
    """A case on its way: planned and proven once, then launched as often as asked, each time in
    fresh ranks.

    `planning` is run on ranks before the proof; its answer travels in the request of proof and
    launches. `yardstick` is where the machine's own speed is measured after each launch; None: it
    is not.
    """

    request: RunRequest
    ranks: Ranks
    machine: Machine
    rendezvous: Rendezvous | None = None
    planning: str | None = None
    packages: tuple[str, ...] = ()
    parallel: bool = False
    yardstick: Ranks | None = None
    correctness: dict[str, object] = field(default_factory=dict)
    launches: list[Launch] = field(default_factory=list)

    def launch(self) -> Launch:
        """One launch; the first is preceded by planning and proof. Raises UsageError, WrongResult
        or RankFailure."""
        if self.planning is not None and self.request.plan is None:
            self.request = replace(
                self.request, plan=self.ranks.launch(self.planning, self.request)[0]
            )
        if not self.correctness:
            proofs = self.ranks.launch(PROVE, self.request, rendezvous=self.rendezvous)
            self.correctness = agree(self.request.case, proofs)
        reports, discarded = self._measure()
        same_model(self.request.case, reports)
        conditions = dict(self.ranks.placement.conditions)
        if discarded:
            conditions["discarded_as_suspended"] = discarded
        if self.yardstick:
            conditions[YARDSTICK] = self.yardstick.launch(MEASURE_MACHINE)[0]
        launch = Launch(tuple(reports), conditions)
        self.launches.append(launch)
        return launch

    def _measure(self) -> tuple[list[RankReport], int]:
        """The reports of a launch in which the machine did not sleep, and how many were discarded
        before it."""
        for discarded in range(ATTEMPTS):
            reports = self.ranks.launch(MEASURE, self.request, rendezvous=self.rendezvous)
            slept_s = max(report.suspended_s for report in reports)
            if slept_s < ASLEEP_S:
                return reports, discarded
        raise LaunchError(
            f"the machine was suspended in each of {ATTEMPTS} launches, in the last for {slept_s:.1f} s: nothing was"
            " measured; keep it awake, for example with systemd-inhibit"
        )

    def again(self, count: int) -> tuple[dict[str, list[float]], list[str | None]]:
        """So many fresh launches apart from those before: each metric's value per launch, and what
        disturbed each."""
        fresh = replace(self, launches=[])
        for _ in range(count):
            fresh.launch()
        values = {
            name: per_launch for name, (per_launch, _) in fresh.measurement().values().items()
        }
        return values, [launch.conditions.get("disturbed") for launch in fresh.launches]

    def measurement(self) -> Measurement:
        """All launches so far."""
        case, facts = self.request.case, self.launches[0].reports[0].environment
        return Measurement(
            case=case,
            launches=tuple(self.launches),
            correctness=self.correctness,
            environment=_environment(self.machine, self.launches, facts, self.packages),
            oversubscribed=self.machine.kind == "cpu" and self.machine.oversubscribed(case.gpus),
            steps=self.request.steps,
            warmup=self.request.warmup,
            parallel=self.parallel,
        )


def prepare_run(
    case: Case,
    catalog: Catalog,
    ranks: Ranks,
    machine: Machine,
    *,
    steps: int,
    warmup: int,
    data: MnistFiles | None,
) -> CaseRun:
    """A run of the case on these ranks. Raises UsageError for an unknown framework or model."""
    spec = catalog.framework(case.framework)
    request = RunRequest(
        case=case,
        worker=spec.worker,
        model=catalog.model(case.model),
        steps=steps,
        warmup=warmup,
        data=data,
    )
    return CaseRun(request, ranks, machine, load(spec.rendezvous), spec.planning, spec.requires)


def load(path: str | None) -> Any:
    """What "module:function" of a framework's row leads to; None without one."""
    if path is None:
        return None
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _environment(
    machine: Machine,
    launches: list[Launch],
    facts: dict[str, Scalar | None],
    packages: tuple[str, ...],
) -> dict[str, dict[str, Scalar | None]]:
    """What must be alike before two runs are compared, and what is only recorded."""
    uuids = {uuid for launch in launches for uuid in launch.conditions.get("gpu_uuids", ())}
    used = [gpu for gpu in machine.gpus if gpu.uuid in uuids]
    alike: dict[str, Scalar | None] = {
        "cpu": machine.cpu,
        "cores": machine.cores,
        "gpu": ", ".join(gpu.name for gpu in used) or None,
        "gpu_uuids": ", ".join(gpu.uuid for gpu in used) or None,
        "driver": machine.driver,
        "torchvision": importlib.metadata.version("torchvision"),
        **{name: importlib.metadata.version(name) for name in packages},
        **facts,
    }
    recorded: dict[str, Scalar | None] = {
        "hostname": platform.node(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "pytest_dnnbench": importlib.metadata.version("pytest-dnnbench"),
        "numpy": importlib.metadata.version("numpy"),
        "load_1min": os.getloadavg()[0],
    }
    return {"must_match": alike, "recorded": recorded}
