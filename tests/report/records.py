"""Records and saved sessions made up for tests and benchmarks of reports: plausible figures with a
seeded noise, built from the types of a saved file."""

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pytest_dnnbench.case import Case
from pytest_dnnbench.metrics import METRICS
from pytest_dnnbench.planner.plan import Plan, PlannedStage
from pytest_dnnbench.results.records.schema import (
    SCHEMA,
    CorrectnessEntry,
    Environment,
    LaunchEntry,
    MetricEntry,
    PlanEntry,
    Record,
    RunFacts,
    SessionEntry,
)
from pytest_dnnbench.results.records.verdict import Against, MetricVerdict, Status, Verdict

_EFFICIENCY = {"single": 1.0, "ddp": 0.97, "horovod": 0.93}
_SECONDS_PER_IMAGE = 1 / 900


def session(
    models: Sequence[str] = ("resnet50",),
    frameworks: Sequence[str] = ("single", "ddp", "horovod"),
    counts: Sequence[int] = (1, 2, 4),
    *,
    phases: Sequence[str] = ("train", "validate"),
    day: int = 10,
    launches: int = 3,
    steps: int = 10,
    noise: float = 0.005,
    slower: str = "",
) -> dict[str, Any]:
    """The content of a file that pytest-benchmark saved. The framework `slower`, if any, lost a
    tenth of its throughput and is regressed."""
    chance = random.Random(day)
    benchmarks = [
        benchmark(
            framework, model, gpus, phase, chance, launches, steps, noise, framework == slower
        )
        for model in models
        for phase in phases
        for gpus in counts
        for framework in frameworks
        if framework != "single" or gpus == 1
    ]
    return saved(*benchmarks, day=day)


def saved(*benchmarks: dict[str, Any], day: int = 10, failed: Sequence[str] = ()) -> dict[str, Any]:
    """The content of a file with these benchmarks."""
    return {
        "datetime": f"2026-03-{day:02}T09:30:00+00:00",
        "commit_info": {"id": f"{day:040}"},
        "benchmarks": list(benchmarks),
        "dnnbench": msgspec.to_builtins(SessionEntry(schema=SCHEMA, failed=list(failed))),
    }


def benchmark(
    framework: str,
    model: str,
    gpus: int,
    phase: str = "train",
    chance: random.Random | None = None,
    launches: int = 3,
    steps: int = 10,
    noise: float = 0.005,
    regressed: bool = False,
) -> dict[str, Any]:
    """One case as it is saved."""
    record = measured(framework, model, gpus, phase, chance, launches, steps, noise, regressed)
    return as_saved(record, f"bench_cases/test_steps.py::test_{phase}[{record.trained_case.id}]")


def as_saved(record: Record, name: str) -> dict[str, Any]:
    """The entry of a case in a file; tests may damage it."""
    return {
        "fullname": name,
        "name": name.partition("::")[2],
        "extra_info": {"dnnbench": msgspec.to_builtins(record)},
        "stats": {},
    }


def measured(
    framework: str,
    model: str,
    gpus: int,
    phase: str = "train",
    chance: random.Random | None = None,
    launches: int = 3,
    steps: int = 10,
    noise: float = 0.005,
    regressed: bool = False,
) -> Record:
    """The record of a case on H100 GPUs; a model in validation is three times as fast."""
    chance = chance or random.Random(gpus)
    efficiency = (
        1.0
        if framework == "single"
        else _EFFICIENCY.get(framework, 0.88) ** (math.log2(gpus) + 0.3)
    )
    pace = (3 if phase == "validate" else 1) * (0.9 if regressed else 1)
    rate = gpus * efficiency / _SECONDS_PER_IMAGE * pace
    step_s = 32 * gpus / rate

    def noisy(value: float, sd: float = noise) -> list[float]:
        return [value * math.exp(chance.gauss(0, sd)) for _ in range(launches)]

    metrics = {
        "throughput": noisy(rate),
        "step_time_s": noisy(step_s),
        "speedup": noisy(gpus * efficiency),
        "scaling_efficiency": noisy(efficiency),
        "allocated_peak_bytes": noisy(2e9 if framework == "single" else 2.3e9, 0.0),
        "cached_peak_bytes": noisy(2.8e9, 0.01),
    }
    case = Case(framework, model, gpus, phase, image_size=224, device="cuda")
    samples = [
        [step_s * math.exp(chance.gauss(0, 0.02)) for _ in range(steps)] for _ in range(launches)
    ]
    return record(case, metrics, step_time_s=samples, verdict=_verdict(rate, regressed))


def record(
    case: Case,
    metrics: Mapping[str, Sequence[float]],
    *,
    step_time_s: Sequence[Sequence[float]] | None = None,
    unit: str = "img/s",
    verdict: Verdict | None = None,
    plan: PlanEntry | None = None,
    steps: int = 10,
    oversubscribed: bool = False,
) -> Record:
    """The record of a case: the value of each metric in each launch, and the throughput's unit."""
    launches = len(next(iter(metrics.values()), ()))
    samples = step_time_s if step_time_s is not None else [[0.1] * steps] * launches
    run = RunFacts(
        sample=unit.partition("/")[0],
        samples_per_update=case.batch_size * case.gpus,
        oversubscribed=oversubscribed,
        steps=steps,
        warmup=3,
        data={},
    )
    return Record(
        schema=SCHEMA,
        case=case,
        run=run,
        metrics={name: _entry(name, values, unit) for name, values in metrics.items()},
        launches=[_launch(times) for times in samples],
        environment=_environment(case.gpus),
        correctness=_correctness(),
        plan=plan,
        details=[{}],
        verdict=verdict or Verdict(),
    )


def _environment(gpus: int) -> Environment:
    gpu = ", ".join(["H100"] * gpus)
    return Environment(
        must_match={"cpu": "EPYC", "cores": 64, "gpu": gpu, "torch": "2.13.0"},
        recorded={"hostname": "node1", "python": "3.12.1"},
    )


def _correctness() -> CorrectnessEntry:
    return CorrectnessEntry(
        checked=["gradients", "parameters"],
        largest_deviation={"gradients": 1.2e-15, "parameters": 3e-16},
        tolerance={"gradients": 1e-9, "parameters": 1e-9},
        ranks_agree="bit for bit",
    )


def verdict(status: Status, **changes: float) -> Verdict:
    """A verdict whose metrics all have its status, with their changes."""
    return Verdict(
        status=status,
        against=Against(file="0001_base.json", sessions=3, saved=None),
        metrics={name: metric_verdict(status, change) for name, change in changes.items()},
    )


def metric_verdict(status: Status, change: float, now: float = 1.0) -> MetricVerdict:
    """The verdict on one metric."""
    return MetricVerdict(
        status=status,
        baseline=now / (1 + change),
        now=now,
        change=change,
        interval=(change - 0.005, change + 0.005),
        limit=-0.03,
        limit_absolute=None,
        widened=False,
        source="default",
        confidence=0.999,
        minimum_detectable=0.04,
        launches_needed=None,
    )


def plan_entry(shape: str = "2-1", **changes: Any) -> PlanEntry:
    """The plan of a pipeline with stages of so many replicas."""
    stages = tuple(
        PlannedStage(number, number, int(count), 0.01, 4e6, 1e5, 2e7, 2, (f"node{number}",))
        for number, count in enumerate(shape.split("-"))
    )
    workers = (sum(stage.replicas for stage in stages),)
    plan = Plan("corrected", workers, 0.01, 0.02, 3e7, 0.03, stages)
    facts: dict[str, Any] = {
        "plan": plan,
        "shape": shape,
        "parallelism": "pipeline",
        "decided_by": "planner",
        "bandwidth_bytes_s": 1e9,
        "profile_parts_over_whole": 1.02,
        "predicted_step_time_s": 0.01,
        "predicted_data_parallel_step_time_s": 0.02,
        "measured_step_time_s": 0.0125,
        "ranks": [],
    }
    return PlanEntry(**facts | changes)


def _verdict(rate: float, regressed: bool) -> Verdict:
    status: Status = "regressed" if regressed else "ok"
    judged = metric_verdict(status, -0.1 if regressed else 0.002, rate)
    against = Against(file="0001_base.json", sessions=3, saved=None)
    return Verdict(status=status, against=against, metrics={"throughput": judged})


def _entry(name: str, values: Sequence[float], unit: str) -> MetricEntry:
    row = METRICS[name]
    return MetricEntry(
        value=statistics.median(values),
        unit=unit if name == "throughput" else row.unit,
        better=row.better,
        per_launch=list(values),
    )


def _launch(step_time_s: Sequence[float]) -> LaunchEntry:
    return LaunchEntry(
        step_time_s=list(step_time_s),
        loss=[2.3] * len(step_time_s),
        rank_wall_s=[math.fsum(step_time_s)],
        page_faults=[0],
    )
