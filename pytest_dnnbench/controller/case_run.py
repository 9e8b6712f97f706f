"""From a case to its measurement: plan once, prove the step once, then launch as often as asked.

    prepare_run ──> CaseRun.launch: plan ──> prove ──> measure ──> yardstick ──> Launch
                                    (first launch only)           (CPU ranks; GPUs: in the ranks)

How ranks are reached is behind Launcher.
"""

import importlib
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

# By name: a test module of the user's may replace the clock in `time`.
from time import monotonic
from typing import Any, Protocol

import msgspec

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.catalog import Catalog, FrameworkSpec
from pytest_dnnbench.controller import gpu_links
from pytest_dnnbench.controller.machine import Gpu, Machine
from pytest_dnnbench.errors import DnnbenchError, LaunchError, RankFailure, UsageError
from pytest_dnnbench.messages import (
    Correctness,
    FunctionRequest,
    PredictedStep,
    RunRequest,
    TimedRequest,
)
from pytest_dnnbench.mnist_files import MnistFiles
from pytest_dnnbench.results.records.measurement import (
    Launch,
    Measurement,
    check_figures,
    check_metrics,
    check_times,
)
from pytest_dnnbench.results.records.rank_agreement import agree, same_model
from pytest_dnnbench.results.records.schema import CorrectnessEntry, Environment
from pytest_dnnbench.run_length import Length
from pytest_dnnbench.text_file import TextFile

ATTEMPTS = 3
"""How many launches are made to get one during which the machine is not suspended."""

ASLEEP_S = 0.01
"""The shortest sleep of the machine that spoils a launch; readings of its clocks differ by far
less."""


class Launcher(Protocol):
    """How a case reaches its ranks. Each call starts fresh ranks; all but `yardstick` raise
    RankFailure, LaunchError or UsageError."""

    def plan(self, request: TimedRequest) -> Any:
        """What the framework decides once for all launches; None where it decides nothing."""

    def prove(self, request: TimedRequest) -> Sequence[Correctness]:
        """Each rank's comparison of its step with the reference, in rank order."""

    def predict(self, request: TimedRequest) -> PredictedStep | None:
        """What a step should take, or why nobody can say. Pipelines have the prediction of their
        plan beside it."""

    def measure(self, request: TimedRequest) -> Launch:
        """One timed launch: the reports in rank order, and the conditions of where it ran."""

    def yardstick(self) -> float | None:
        """The speed of the machine's cores: seconds of a fixed workload; None where it is not
        measured."""


@dataclass
class CaseRun:
    """A case while it is measured: what is asked of the ranks, what proved the step, the launches
    so far.

    `packages` are those whose versions are recorded. `parallel`: other cases are timed beside this
    one. `with_yardstick`: each launch is followed by a measurement of the machine's own speed.
    `profiled`: each launch but those that confirm a verdict profiles a few steps after the timed
    ones; `traces` is the path of their traces, to which launch and rank are added.
    `predicted`: what a step of training should take is predicted before the first launch.
    `software` is the version of Python and of each package, by name, of ranks in another
    environment than this process's; None: they are in this one. `replacement`: the worker of
    another package that stands for a framework of ours, and is another thing to compare.
    """

    request: TimedRequest
    launcher: Launcher
    machine: Machine
    packages: tuple[str, ...] = ()
    parallel: bool = False
    with_yardstick: bool = False
    software: Mapping[str, str] | None = None
    profiled: bool = False
    predicted: bool = False
    traces: str | None = None
    replacement: str | None = None
    correctness: CorrectnessEntry | None = None
    prediction: PredictedStep | None = None
    launches: list[Launch] = field(default_factory=list)
    _profiles: int = 0

    def launch(self) -> Launch:
        """Makes one launch more. Raises UsageError, WrongResult, RankFailure or LaunchError."""
        self.prepare()
        launch = self._timed_launch(self.profiled)
        self.launches.append(launch)
        return launch

    def again(self, count: int, *, profiled: bool = False) -> list[Launch]:
        """Fresh launches to confirm a verdict, or profiled ones to explain it; they do not count
        among `launches`. Raises as `launch` does."""
        self.prepare()
        return [self._timed_launch(profiled) for _ in range(count)]

    def _environment(self, launches: Sequence[Launch]) -> Environment:
        facts = _environment(self.machine, launches, self.packages, self.software)
        if self.replacement is not None:
            facts.must_match["worker"] = self.replacement
        return facts

    def measurement(self, launches: Sequence[Launch] | None = None) -> Measurement:
        """All launches so far, or the given ones, as a measurement of this case."""
        case = self.request.case
        assert self.correctness is not None, "a launch comes after the proof"
        measured = tuple(self.launches if launches is None else launches)
        return Measurement(
            case=case,
            launches=measured,
            correctness=self.correctness,
            environment=self._environment(measured),
            oversubscribed=self.machine.oversubscribed(case.gpus),
            steps=self.request.steps,
            warmup=self.request.warmup,
            parallel=self.parallel,
            prediction=self.prediction,
        )

    def prepare(self) -> None:
        """Plans, proves and predicts, unless that has been done. Raises WrongResult for a wrong
        step, and as `launch` does."""
        if self.request.plan is None:
            self.request = replace(self.request, plan=self.launcher.plan(self.request))
        if self.correctness is None and not self._is_checked:
            self.correctness = CorrectnessEntry()
        if self.correctness is None:
            self.correctness = self._proven()
        if self.predicted and self.prediction is None and self._is_training:
            self.prediction = self._predicted_step()

    def _proven(self) -> CorrectnessEntry:
        """The proof, and how long it took."""
        start_s = monotonic()
        results = self.launcher.prove(self.request)
        took_s = monotonic() - start_s
        return msgspec.structs.replace(agree(self.request.case, results), took_s=took_s)

    def _predicted_step(self) -> PredictedStep | None:
        """The prediction. A rank that fails in it costs the case no more than the prediction."""
        try:
            return self.launcher.predict(self.request)
        except RankFailure as error:
            return PredictedStep(refused=str(error).partition("\n")[0])

    @property
    def _is_training(self) -> bool:
        return isinstance(self.request, RunRequest) and self.request.case.phase == "train"

    @property
    def _is_checked(self) -> bool:
        """Whether anything is checked before the first launch: a user's function need not have a
        check."""
        return isinstance(self.request, RunRequest) or self.request.check is not None

    def _timed_launch(self, profiled: bool) -> Launch:
        launch, discarded = self._awake_launch(self._request(profiled))
        check_metrics(self.request.case, launch.reports)
        check_times(self.request.case, launch)
        same_model(self.request.case, launch.reports)
        conditions = msgspec.structs.replace(
            launch.conditions,
            discarded_as_suspended=discarded,
            yardstick_s=self._yardstick(launch) if self.with_yardstick else None,
        )
        launch = replace(launch, conditions=conditions)
        check_figures(self.request.case, launch)
        return launch

    def _yardstick(self, launch: Launch) -> float | None:
        """The machine's own speed after a launch: of its slowest GPU, which the ranks report, or of
        its cores. None where a rank's GPU had no memory left for it."""
        if self.machine.kind != "cuda":
            return self.launcher.yardstick()
        reported = [report.yardstick_s for report in launch.reports]
        measured = [seconds for seconds in reported if seconds is not None]
        return max(measured) if len(measured) == len(reported) else None

    def _request(self, profiled: bool) -> TimedRequest:
        """What the ranks of the next launch have to do."""
        # Ranks that share a GPU would measure each other.
        on_gpus = self.machine.kind == "cuda" and not self.machine.oversubscribed(
            self.request.case.gpus
        )
        request = replace(self.request, yardstick=self.with_yardstick and on_gpus)
        if isinstance(request, RunRequest):
            request = replace(request, recheck=not self.launches)
        if not profiled:
            return request
        # A session that continues another has some of the launches already.
        self._profiles = max(self._profiles, len(self.launches)) + 1
        traces = self.traces and f"{self.traces}-launch{self._profiles}"
        return replace(request, profiled=True, traces=traces)

    def _awake_launch(self, request: TimedRequest) -> tuple[Launch, int]:
        """A launch during which the machine did not sleep, and how many were discarded before
        it."""
        for discarded in range(ATTEMPTS):
            launch = self.launcher.measure(request)
            slept_s = max(report.suspended_s for report in launch.reports)
            if slept_s < ASLEEP_S:
                return launch, discarded
        raise LaunchError(
            f"the machine was suspended in each of {ATTEMPTS} launches, in the last for"
            f" {slept_s:.1f} s: nothing was measured; keep it awake, for example with"
            " systemd-inhibit"
        )


def prepare_run(
    case: Case,
    catalog: Catalog,
    launcher: Launcher,
    machine: Machine,
    *,
    steps: Length,
    warmup: Length,
    data: MnistFiles | None,
    text: TextFile | None = None,
) -> CaseRun:
    """A run of the case. `launcher` must be one for the case's framework and its number of ranks.
    Raises UsageError for an unknown framework or model, and for what the framework's own rules do
    not allow."""
    spec = catalog.framework(case.framework)
    check_rules(spec, case)
    request = RunRequest(
        case=case,
        worker=spec.worker,
        model=catalog.model(case.model),
        steps=steps,
        warmup=warmup,
        data=data,
        text=text,
    )
    replacement = spec.worker if catalog.replaces_ours(case.framework) else None
    return CaseRun(request, launcher, machine, spec.requires, replacement=replacement)


def prepare_function(
    request: FunctionRequest, spec: FrameworkSpec, launcher: Launcher, machine: Machine
) -> CaseRun:
    """A run of a timed function. `spec` is the library whose group its ranks join."""
    return CaseRun(request, launcher, machine, spec.requires)


def check_rules(spec: FrameworkSpec, case: Case) -> None:
    """Raises UsageError, with the reason, where a framework's rules do not allow a case."""
    if spec.rules is not None:
        _answer(spec.rules, case)


def fits(spec: FrameworkSpec, count: int, options: Mapping[str, Scalar]) -> bool:
    """Whether a framework runs on so many devices with these options. Raises UsageError."""
    return spec.fits is None or bool(_answer(spec.fits, spec.name, count, options))


def _answer(path: str, *arguments: object) -> Any:
    """What the function behind "module:name" returns. Raises UsageError for all that it raises."""
    function = load(path)
    try:
        return function(*arguments)
    except DnnbenchError:
        raise
    except Exception as error:  # of another package's code, whatever it is
        raise UsageError(
            f"{path!r}, which a framework's row names, raised {type(error).__name__}: {error}"
        ) from error


def load(path: str | None) -> Any:
    """The object behind "module:name" in a framework's row; None for None. Raises UsageError where
    it cannot be imported."""
    if path is None:
        return None
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # of the module's own code, whatever it is
        raise UsageError(
            f"{path!r}, which a framework's row names, cannot be imported:"
            f" {type(error).__name__}: {error}"
        ) from error


def _shared_gpus(machine: Machine, ranks: int) -> dict[str, Scalar]:
    """How many ranks share a GPU, where any do."""
    shared = machine.kind == "cuda" and machine.oversubscribed(ranks)
    return {"ranks_per_gpu": machine.ranks_per_gpu} if shared else {}


def _gpu_settings(gpus: Sequence[Gpu]) -> dict[str, Scalar | None]:
    """What is set on the GPUs, and how they are connected, as facts gpu_NAME: one value if all have
    the same."""
    facts: dict[str, Scalar | None] = {}
    for name in dict.fromkeys(name for gpu in gpus for name, _ in gpu.settings):
        values = [dict(gpu.settings).get(name) for gpu in gpus]
        facts[f"gpu_{name}"] = values[0] if len(set(values)) == 1 else ", ".join(map(str, values))
    if any(gpu.sliced for gpu in gpus):
        facts["gpu_sliced"] = True
    links = {gpu.uuid: dict(gpu.links) for gpu in gpus}
    if (connected := gpu_links.described([*links], links)) is not None:
        facts["gpu_links"] = connected
    return facts


def _environment(
    machine: Machine,
    launches: Sequence[Launch],
    packages: Iterable[str],
    software: Mapping[str, str] | None,
) -> Environment:
    """The facts that must match before two runs are compared, and those that are only recorded."""
    version = partial(_version, software)
    uuids = {uuid for launch in launches for uuid in launch.conditions.gpu_uuids}
    used = [gpu for gpu in machine.gpus if gpu.uuid in uuids]
    must_match: dict[str, Scalar | None] = {
        "cpu": machine.cpu,
        "cores": machine.cores,
        "gpu": ", ".join(gpu.name for gpu in used) or None,
        "gpu_uuids": ", ".join(gpu.uuid for gpu in used) or None,
        **_gpu_settings(used),
        "driver": machine.driver,
        **_shared_gpus(machine, len(launches[0].reports)),
        "torchvision": version("torchvision"),
        **{name: version(name) for name in packages},
        **launches[0].reports[0].environment,
    }
    recorded: dict[str, Scalar | None] = {
        "hostname": platform.node(),
        "python": platform.python_version() if software is None else software["python"],
        "platform": platform.platform(),
        "pytest_dnnbench": version("pytest-dnnbench"),
        "numpy": version("numpy"),
        "load_1min": os.getloadavg()[0],
    }
    if nodes := launches[0].conditions.nodes:
        recorded["nodes"] = ", ".join(node.name for node in nodes)
    if len(nodes) > 1:
        must_match["ranks_per_node"] = "-".join(str(node.ranks) for node in nodes)
        speeds = [node.network_mbit_s for node in nodes if node.network_mbit_s is not None]
        must_match["network_mbit_s"] = min(speeds, default=None)
    return Environment(must_match=must_match, recorded=recorded)


def _version(software: Mapping[str, str] | None, package: str) -> str | None:
    """The version of a package, of this environment or another; None where that states none."""
    if software is None:
        return importlib.metadata.version(package)
    return software.get(package.lower().replace("_", "-"))
