"""What each framework's step takes on workers that nobody has measured, from the profile of one:
time, throughput and memory of a worker.

    one worker           forward + backward + update
    ddp                  data_parallel.py
    fsdp                 sharded.py
    our own pipelines    the planner's plan, time by plan_seconds.py
    torch's schedules    of each the best length of the pipelines, replicated over all workers; cuts
                         by the planner, order by orders.py, time by bubbles.py

All of them train on minibatches of the profile's size, so throughput compares. Not here: the table
(prediction_table.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.bubbles import batch_seconds
from pytest_dnnbench.planner.data_parallel import BUCKET_BYTES, data_parallel_step
from pytest_dnnbench.planner.fabric import Fabric, Link, Workers, hops_of
from pytest_dnnbench.planner.graph import planned_graph
from pytest_dnnbench.planner.levels import levels_of
from pytest_dnnbench.planner.orders import ORDERED, in_flight, orders_of
from pytest_dnnbench.planner.own_pipelines import (
    MOST_MICROBATCHES,
    own_bytes,
    own_schedule,
    own_wiring,
)
from pytest_dnnbench.planner.plan import Plan, PlannedStage
from pytest_dnnbench.planner.plan_seconds import flushed_s, minibatch_s, pass_seconds
from pytest_dnnbench.planner.predict import even_plan
from pytest_dnnbench.planner.profile import Profile, number_in
from pytest_dnnbench.planner.schedule import VARIANTS
from pytest_dnnbench.planner.sharded import sharded_step, units_of
from pytest_dnnbench.planner.synchronous import RULES, Pipelines
from pytest_dnnbench.planner.training_memory import (
    alone_bytes,
    data_parallel_bytes,
    sharded_bytes,
    stage_bytes,
)

_Pair = tuple[int, int]
"""Two stages, or two places in a pipeline."""

_NOTHING_FITS = "no stages of the model for these GPUs, or none that fit their memory"
_REASONS = {
    "horovod": "how much of its exchange compute hides is in no formula",
    "tp": "what ranks that split layers exchange within them is in no formula",
}
"""Why nothing is predicted of a framework, whatever the model."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One framework on all workers.

    shape          how it uses them, as in dp64 or pp8xdp8
    minibatches    in a step, over all workers
    step_s         of a step; of `pipedream`, between two minibatches that complete
    efficiency     throughput over that of as many workers that each train alone
    memory_bytes   of the worker that needs most: weights, gradients, optimiser's state and
                   activations, with buckets and gathered weights
    fits           whether that is no more than the memory that a worker has
    """

    framework: str
    shape: str
    minibatches: int
    step_s: float
    efficiency: float
    memory_bytes: float
    fits: bool = True

    @property
    def minibatch_s(self) -> float:
        """Seconds per minibatch."""
        return self.step_s / self.minibatches


@dataclass(frozen=True, slots=True)
class Predicting:
    """From what predictions are made: the profile, the workers, and the microbatches of each
    pipeline in an update (None: one per rank, or what its schedule needs)."""

    profile: Profile
    fabric: Fabric
    memory_bytes: float | None = None
    microbatches: int | None = None

    @property
    def workers(self) -> int:
        """All of them."""
        return self.fabric.workers

    @property
    def update_s(self) -> float:
        """Seconds of an update of all weights; 0 where the profile has none."""
        return number_in(self.profile, "update_s")

    @property
    def alone_s(self) -> float:
        """Seconds of one worker's step alone."""
        return self.profile.parts_s + self.update_s

    def prediction(
        self, framework: str, shape: str, minibatches: int, step_s: float, memory_bytes: float
    ) -> Prediction:
        """A prediction, with its efficiency."""
        workers = 1 if framework == "single" else self.workers
        in_time = workers * step_s
        efficiency = self.alone_s * minibatches / in_time if in_time else 1.0
        fits = self.memory_bytes is None or memory_bytes <= self.memory_bytes
        return Prediction(framework, shape, minibatches, step_s, efficiency, memory_bytes, fits)


def predictions(
    profile: Profile,
    plan: Plan,
    bandwidths: Sequence[float],
    *,
    latencies_s: Sequence[float] = (),
    memory_bytes: float | None = None,
    microbatches: int | None = None,
) -> list[Prediction]:
    """One worker first, then the frameworks on all workers of the plan: those that fit
    `memory_bytes` before the others, the fastest first.

    `bandwidths` (bytes per second) and `latencies_s` (seconds of a message; by default 0) have one
    entry per level, innermost first. A schedule whose pipelines fit no divisor of the workers, or
    none within `memory_bytes`, is left out. Raises PlanError for latencies and microbatches that
    cannot be.
    """
    if microbatches is not None and not 1 <= microbatches <= MOST_MICROBATCHES:
        raise PlanError(
            f"{microbatches} microbatches: give at least 1, and at most {MOST_MICROBATCHES}"
        )
    fabric = Fabric(levels_of(plan.workers, bandwidths), tuple(latencies_s))
    predicting = Predicting(_without_data(profile), fabric, memory_bytes, microbatches)
    alone = predicting.prediction(
        "single", "1", 1, predicting.alone_s, alone_bytes(predicting.profile)
    )
    if fabric.workers == 1:
        return [alone]
    others = [_ddp(predicting), _fsdp(predicting)]
    others += [best for name in VARIANTS if (best := _planned(predicting, plan, name))]
    wiring = _Wiring(fabric)
    cuts = _Cuts(predicting, wiring)
    others += [best for name in ORDERED if (best := _scheduled(predicting, name, cuts, wiring))]
    return [alone, *sorted(others, key=lambda each: (not each.fits, each.minibatch_s))]


def _without_data(profile: Profile) -> Profile:
    """The profile, in which what the planner gives no stage takes nothing: in PipeDream's format a
    model's input is an operator too, whose time is that of loading it."""
    planned = {operator.id for operator in planned_graph(profile).operators}
    operators = (
        operator
        if operator.id in planned
        else replace(operator, forward_s=0.0, backward_s=0.0, activation_bytes=0.0)
        for operator in profile.operators
    )
    return replace(profile, operators=tuple(operators))


def unpredicted(rows: Sequence[Prediction]) -> dict[str, str]:
    """The built-in frameworks that have no row among the predictions, each with the reason. None
    where there is one worker, which is all that was predicted."""
    have_row = {row.framework for row in rows}
    if have_row <= {"single"}:
        return {}
    fitting_none = dict.fromkeys((*VARIANTS, *ORDERED), _NOTHING_FITS)
    return {
        name: reason
        for name, reason in {**fitting_none, **_REASONS}.items()
        if name not in have_row
    }


def _ddp(predicting: Predicting) -> Prediction:
    workers = predicting.workers
    step = data_parallel_step(
        predicting.profile.in_topological_order(),
        predicting.fabric.ring(range(workers)).all_reduce(workers),
        update_s=predicting.update_s,
        bucket_bytes=BUCKET_BYTES,
    )
    memory_bytes = data_parallel_bytes(predicting.profile)
    return predicting.prediction("ddp", f"dp{workers}", workers, step.step_s, memory_bytes)


def _fsdp(predicting: Predicting) -> Prediction:
    workers, profile = predicting.workers, predicting.profile
    units = units_of(profile)
    cost = predicting.fabric.ring(range(workers)).all_gather(workers)
    step = sharded_step(units, cost, cost, update_s=predicting.update_s / workers)
    return predicting.prediction(
        "fsdp", f"dp{workers}", workers, step.step_s, sharded_bytes(profile, workers)
    )


def _planned(predicting: Predicting, plan: Plan, variant: str) -> Prediction | None:
    """The planner's plan under a schedule of ours."""
    schedule = own_schedule(plan, variant, predicting.microbatches)
    if schedule is None:
        return None
    # The planner's bottleneck has those of `pipedream`.
    wiring: tuple[list[float], dict[_Pair, float]] = [0.0] * len(plan.stages), {}
    if variant != "pipedream":
        wiring = own_wiring(predicting.fabric, schedule.layout, plan)
    averages, messages = wiring
    if variant == "pipedream-flush":
        step_s = flushed_s(plan, schedule, averages, messages)
    else:
        each_s = minibatch_s(plan, schedule, averages, messages, overlaps=True)
        step_s = each_s * schedule.microbatches
    shape = plan.shape if len(plan.stages) > 1 else f"dp{plan.replicas[0]}"
    memory_bytes = max(
        own_bytes(predicting.profile, plan, schedule, number) for number in range(len(plan.stages))
    )
    return predicting.prediction(variant, shape, schedule.microbatches, step_s, memory_bytes)


class _Cuts:
    """The planner's cuts into equally replicated stages, each found once. None: no such cuts."""

    def __init__(self, predicting: Predicting, wiring: "_Wiring") -> None:
        self._predicting, self._wiring = predicting, wiring
        self._plans: dict[tuple[int, int], Plan | None] = {}

    def of(self, pipelines: Pipelines) -> Plan | None:
        """For these pipelines."""
        if pipelines.stages > len(self._predicting.profile.operators):
            return None
        key = pipelines.stages, pipelines.replicas
        if key not in self._plans:
            links = self._wiring.messages(pipelines).values()
            try:
                self._plans[key] = even_plan(
                    self._predicting.profile,
                    (pipelines.replicas,) * pipelines.stages,
                    workers=self._predicting.workers,
                    bandwidth=min(link.bandwidth for link in links),
                )
            except PlanError:  # the model cannot be cut into so many
                self._plans[key] = None
        return self._plans[key]


def _scheduled(
    predicting: Predicting, framework: str, cuts: _Cuts, wiring: "_Wiring"
) -> Prediction | None:
    """The best pipelines of a schedule."""
    candidates = []
    for pipelines in _pipelines(predicting, framework):
        plan = cuts.of(pipelines)
        if plan is not None and plan.stages:
            candidates.append(_on_pipelines(predicting, pipelines, plan, wiring))
    fitting = [each for each in candidates if each.fits]
    return min(fitting, key=lambda each: each.minibatch_s, default=None)


def _pipelines(predicting: Predicting, framework: str) -> Iterator[Pipelines]:
    """Of every length that divides the workers."""
    rule = RULES[framework]
    for length in range(2, predicting.workers + 1):
        if predicting.workers % length:
            continue
        of_each = (
            1 if rule.one_at_a_time else predicting.microbatches or length * max(1, rule.least)
        )
        replicas = predicting.workers // length
        try:
            yield Pipelines(
                framework, length, replicas, rule.stages_per_rank or 2, of_each * replicas
            )
        except PlanError:  # too few microbatches for so many ranks
            continue


def _on_pipelines(
    predicting: Predicting, pipelines: Pipelines, plan: Plan, wiring: "_Wiring"
) -> Prediction:
    stages, rings = plan.stages, wiring.rings(pipelines)
    averages = [
        rings[pipelines.place_of(number)]
        .all_reduce(pipelines.replicas)
        .seconds(stage.parameter_bytes)
        for number, stage in enumerate(stages)
    ]
    seconds = pass_seconds(plan, averages, *pipelines.additions)
    orders = orders_of(pipelines, updates=True)
    step_s = batch_seconds(orders, seconds, _transfers(wiring, pipelines, stages))
    memory_bytes = max(
        sum(
            stage_bytes(
                predicting.profile,
                stages[number].operators,
                stages[number].parameter_bytes,
                stages[number - 1].output_bytes if number else 0.0,
                kept,
            )
            for number, kept in kept_of.items()
        )
        for kept_of in map(in_flight, orders)
    )
    shape = f"pp{pipelines.ranks}" + (f"xdp{pipelines.replicas}" if pipelines.replicas > 1 else "")
    return predicting.prediction(
        pipelines.framework, shape, pipelines.microbatches, step_s, memory_bytes
    )


def _transfers(
    wiring: "_Wiring", pipelines: Pipelines, stages: Sequence[PlannedStage]
) -> dict[tuple[int, int], float]:
    """Seconds of a message between neighbouring stages on two ranks."""
    links = wiring.messages(pipelines)
    seconds = {}
    for before, after in pairwise(range(len(stages))):
        for pair in ((before, after), (after, before)):
            if link := links.get(_places(pipelines, pair)):
                seconds[pair] = link.seconds(stages[before].output_bytes)
    return seconds


class _Wiring:
    """What pipelines have of the fabric, by place in them: in all replicas alike, the slowest
    counts. Found once for all schedules that send between the same places."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._rings: dict[tuple[int, int], list[Link]] = {}
        self._messages: dict[tuple[int, int, frozenset[_Pair]], dict[_Pair, Link]] = {}

    def rings(self, pipelines: Pipelines) -> list[Link]:
        """Of the ring through all replicas of each place, while all such rings run."""
        key = pipelines.ranks, pipelines.replicas
        if key not in self._rings:
            rings = [_replicas(pipelines, place) for place in range(pipelines.ranks)]
            load = self._fabric.load(np.concatenate([hops_of(each) for each in rings]))
            self._rings[key] = [self._fabric.ring(each, load) for each in rings]
        return self._rings[key]

    def messages(self, pipelines: Pipelines) -> dict[_Pair, Link]:
        """From each place to those that hold a neighbour of its stages, while all send to their
        neighbours, forward and back."""
        forward = {_places(pipelines, pair) for pair in pairwise(range(pipelines.stages))}
        pairs = frozenset(p for a, b in forward for p in ((a, b), (b, a)) if a != b)
        key = pipelines.ranks, pipelines.replicas, pairs
        if key not in self._messages:
            flows = {
                pair: np.stack([_replicas(pipelines, place) for place in pair], axis=1)
                for pair in pairs
            }
            load = self._fabric.load(np.concatenate(list(flows.values())))
            self._messages[key] = {
                pair: self._fabric.slowest(each, load) for pair, each in flows.items()
            }
        return self._messages[key]


def _replicas(pipelines: Pipelines, place: int) -> Workers:
    """The workers at one place of all pipelines."""
    first = pipelines.layout.rank(place, 0)
    return np.arange(first, first + pipelines.replicas)


def _places(pipelines: Pipelines, stages: _Pair) -> _Pair:
    """The ranks of a pipeline that hold two stages."""
    return pipelines.place_of(stages[0]), pipelines.place_of(stages[1])
