"""What a step of a pipeline takes beside what its plan predicts, for every schedule.

    python -m benchmarks.predicted_pipelines [--frameworks gpipe,...] [--models resnet18,...]
                                             [--rounds 3]

Two CPU ranks, one pipeline of them. In every round the ranks profile the model, both at the same
time, and run a few steps of each framework in turn: a busy machine slows all of them alike. Times
of passes and of profiles are of the computing thread's own processor time, which hardly depends on
other work, and so is that of torch's runtime, which is tried in every round. So what a rank does in
a step is compared, not what it waits for: the order of passes is held against torch's, and the play
of an order against a simulation, in the tests. Both ranks' sums are compared; the median of the
rounds, with the least and the largest error. The last column is the wall clock's: a step as
predicted, played through, and as it was.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch
import torch.distributed as dist

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.case_run import load
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import Place, PlanDecision, RunRequest
from pytest_dnnbench.planner.layout import Layout
from pytest_dnnbench.planner.options import schedule_of
from pytest_dnnbench.planner.orders import orders_of
from pytest_dnnbench.planner.plan import Plan
from pytest_dnnbench.planner.plan_seconds import pass_seconds
from pytest_dnnbench.planner.predict import even_plan
from pytest_dnnbench.planner.profile import Profile, halves_in, number_in
from pytest_dnnbench.planner.schedule import VARIANTS
from pytest_dnnbench.planner.synchronous import RULES, pipelines_of
from pytest_dnnbench.rank import group, stopwatch
from pytest_dnnbench.rank.pipeline.runtime_trial import seconds_of_pass
from pytest_dnnbench.rank.profiling.profiler import Effort, profile_workload
from pytest_dnnbench.rank.trial_steps import worker_class
from pytest_dnnbench.rank.workloads.factory import workload_of

RANKS = 2
STEPS = 3
EFFORT = Effort(warmup=1, repetitions=3)
Row = tuple[str, float, float, float, float]
"""Framework; a rank's own seconds in a step, predicted and measured; those of the whole step by the
wall clock, predicted and measured."""


def rows_of(place: Place, request: RunRequest, frameworks: list[str], rounds: int) -> list[Row]:
    """All rounds on this rank."""
    vars(stopwatch)["perf_counter"] = time.thread_time  # what marks read on a CPU
    with group.membership(place):
        first = profile(place, request)
        workers = {name: worker(place, request, name, first) for name in frameworks}
        rows = []
        for number in range(1 + rounds):  # the first warms up
            now = profile(place, request)
            for name, each in workers.items():
                each.plan = retimed(each.plan, now)
                if name not in VARIANTS:
                    pipelines = pipelines_of(name, RANKS, options(name))
                    runtime_s = seconds_of_pass(place, pipelines)
                    each.decision = dataclasses.replace(each.decision, runtime_s=runtime_s)
                row = name, *compared(each, place, name)
                rows += [row] if number else []
        return rows


def profile(place: Place, request: RunRequest) -> Profile:
    """Rank 0's, taken on both ranks at the same time."""
    case = request.case
    dist.barrier()
    given = (workload_of(request), request.model, case.image_size, case.batch_size, case.precision)
    made = [profile_workload(*given, place.device, effort=EFFORT)]
    dist.broadcast_object_list(made)
    return made[0]


def worker(place: Place, request: RunRequest, framework: str, profile: Profile) -> Any:
    """A worker of the framework on two stages, or as many as its schedule has."""
    case = dataclasses.replace(request.case, framework=framework, options=options(framework))
    stages = RANKS
    if framework not in VARIANTS:
        stages = pipelines_of(framework, RANKS, case.options).stages
    plan = even_plan(profile, (1,) * stages, workers=RANKS).require_feasible()
    row = Catalog().framework(framework)
    asked = dataclasses.replace(
        request, case=case, worker=row.worker, plan=PlanDecision(plan, "user")
    )
    made = worker_class(asked)(place, asked)
    made.build()
    return made


def options(framework: str) -> dict[str, Any]:
    """Of a case on two ranks."""
    return {"stages": "2"} if framework in VARIANTS else {}


def retimed(plan: Plan, profile: Profile) -> Plan:
    """The plan with the times of another profile of the same model."""
    operators = {each.id: each for each in profile.operators}
    stages = []
    for stage in plan.stages:
        own = [operators[name] for name in stage.operators]
        forward_s = sum(each.forward_s for each in own)
        compute_s = forward_s + sum(each.backward_s for each in own)
        stages.append(dataclasses.replace(stage, compute_s=compute_s, forward_s=forward_s))
    return dataclasses.replace(
        plan,
        stages=tuple(stages),
        bottleneck_s=max(stage.compute_s for stage in stages),
        halves=halves_in(profile),
        update_s=number_in(profile, "update_s"),
        add_s=number_in(profile, "add_s"),
    )


def compared(worker: Any, place: Place, framework: str) -> tuple[float, float, float, float]:
    """A rank's own seconds in a step, predicted and measured; and the wall clock's of a step."""
    begin = worker.lead_in + 1
    worker.timed = range(begin, begin + STEPS)
    dist.barrier()
    ends = [
        (step.index, time.thread_time(), time.perf_counter())
        for step in worker.run(begin + STEPS + worker.run_on)
    ]
    inside = [each for each in ends if begin - 1 <= each[0] < begin + STEPS]
    (first, own_s, wall_s), (last, own_end_s, wall_end_s) = inside[0], inside[-1]
    steps = last - first
    worker.metrics()  # gathers the order of the passes, which the prediction plays
    predicted_s = worker.pipeline_facts().predicted_step_time_s
    measured = (own_end_s - own_s) / steps, (wall_end_s - wall_s) / steps
    return own_seconds(worker, place, framework), measured[0], predicted_s, measured[1]


def own_seconds(worker: Any, place: Place, framework: str) -> float:
    """What a rank's passes and updates add up to in a step, as predicted."""
    nothing = [0.0] * len(worker.plan.stages)
    if framework in VARIANTS:
        schedule = schedule_of(framework, Layout((1,) * RANKS), options(framework))
        summed = float(schedule.update_size(0) > 1)
        seconds = pass_seconds(worker.plan, nothing, summed, summed)
        stage, count = place.rank, schedule.microbatches
        return count * (seconds[stage, "F"] + seconds[stage, "B"]) + seconds[stage, "U"]
    pipelines = pipelines_of(framework, RANKS, options(framework))
    runtime_s = worker.decision.runtime_s or 0.0
    seconds = pass_seconds(worker.plan, nothing, *pipelines.additions, runtime_s)
    order = orders_of(pipelines, updates=True)[place.rank]
    return sum(seconds[each.stage, each.kind] for each in order)


def table(rows: list[list[Row]]) -> Iterator[str]:
    """By framework: both ranks' own time, and the step's on the rank with the last stage."""
    together = [
        (first[0], first[1] + last[1], first[2] + last[2], *last[3:])
        for first, last in zip(*rows, strict=True)
    ]
    for name, group_of_rows in groupby(sorted(together, key=itemgetter(0)), key=itemgetter(0)):
        of_framework = list(group_of_rows)
        _, *figures = zip(*of_framework, strict=True)
        own, own_real, step, step_real = (statistics.median(each) * 1e3 for each in figures)
        errors = [measured / predicted - 1 for _, predicted, measured, *_ in of_framework]
        yield (
            f"| `{name}` | {own:.0f} ms | {own_real:.0f} ms | {statistics.median(errors):+.1%}"
            f" ({min(errors):+.1%} to {max(errors):+.1%}) | {step:.0f} ms, {step_real:.0f} ms |"
        )


def main() -> None:
    """Prints a row for each framework, by model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frameworks", default=",".join((*VARIANTS, *RULES)))
    parser.add_argument("--models", default="resnet18,efficientnet_b0")
    parser.add_argument("--rounds", type=int, default=3)
    settings = parser.parse_args()
    frameworks, catalog = settings.frameworks.split(","), Catalog()
    row = catalog.framework(frameworks[0])
    torch.set_num_threads(1)
    with ForkServer() as server:
        ranks = Ranks(server, ["cpu"] * RANKS, threads=1, timeout_s=900)
        for model in settings.models.split(","):
            case = Case(frameworks[0], model, RANKS, "train", batch_size=32)
            request = RunRequest(case, row.worker, catalog.model(model), 1, 0)
            rows = ranks.launch(
                "benchmarks.predicted_pipelines:rows_of",
                request,
                frameworks,
                settings.rounds,
                rendezvous=load(row.rendezvous),
            )
            print(f"\n{model}\n")
            print(
                "| framework | own time, predicted | measured | error | step, predicted, measured |"
            )
            print("|---|---|---|---|---|")
            print(*table(rows), sep="\n", flush=True)


if __name__ == "__main__":
    main()
