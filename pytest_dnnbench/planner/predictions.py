"""What each framework's step takes on workers that nobody has measured, from the profile of one:
time, throughput and memory of a worker.

    one worker           forward + backward + update
    ddp                  data_parallel.py
    fsdp                 sharded.py
    pipedream            the planner's plan
    torch's schedules    of each the best length of the pipelines, replicated over all workers; cuts
                         by the planner, order by orders.py, time by bubbles.py

All of them train on minibatches of the profile's size, so throughput compares. Not here: the table
(prediction_table.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.blocks import levels_of
from pytest_dnnbench.planner.bubbles import batch_seconds
from pytest_dnnbench.planner.data_parallel import BUCKET_BYTES, data_parallel_step
from pytest_dnnbench.planner.fabric import Fabric, Flow, hops_of
from pytest_dnnbench.planner.orders import ORDERED, in_flight, orders_of
from pytest_dnnbench.planner.plan import Plan, Stage
from pytest_dnnbench.planner.predict import even_plan
from pytest_dnnbench.planner.profile import Profile
from pytest_dnnbench.planner.sharded import sharded_step, units_of
from pytest_dnnbench.planner.synchronous import RULES, Pipelines
from pytest_dnnbench.planner.training_memory import (
    alone_bytes,
    data_parallel_bytes,
    number_in,
    sharded_bytes,
    stage_bytes,
    weight_bytes,
)

MOST_MICROBATCHES = 1 << 12
"""Of each pipeline in an update: every pass of each of them is played."""


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

    def made(
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
    given = Predicting(profile, fabric, memory_bytes, microbatches)
    alone = given.made("single", "1", 1, given.alone_s, alone_bytes(profile))
    if fabric.workers == 1:
        return [alone]
    others = [_ddp(given), _fsdp(given)]
    others += [_pipedream(given, plan)] if plan.stages else []
    cuts = _Cuts(given)
    others += [best for name in ORDERED if (best := _scheduled(given, name, cuts))]
    return [alone, *sorted(others, key=lambda each: (not each.fits, each.minibatch_s))]


def _ddp(given: Predicting) -> Prediction:
    workers = given.workers
    step = data_parallel_step(
        given.profile.in_topological_order(),
        given.fabric.ring(range(workers)).all_reduce(workers),
        update_s=given.update_s,
        bucket_bytes=BUCKET_BYTES,
    )
    memory_bytes = data_parallel_bytes(given.profile)
    return given.made("ddp", f"dp{workers}", workers, step.step_s, memory_bytes)


def _fsdp(given: Predicting) -> Prediction:
    workers, profile = given.workers, given.profile
    units = units_of(profile)
    cost = given.fabric.ring(range(workers)).all_gather(workers)
    step = sharded_step(units, cost, cost, update_s=given.update_s / workers)
    return given.made("fsdp", f"dp{workers}", workers, step.step_s, sharded_bytes(profile, workers))


def _pipedream(given: Predicting, plan: Plan) -> Prediction:
    """The planner's plan. A replica updates once in as many minibatches as there are replicas."""
    weights = weight_bytes(given.profile) or 1.0
    updated_s = max(
        (stage.compute_s + stage.parameter_bytes / weights * given.update_s) / stage.replicas
        for stage in plan.stages
    )
    memory_bytes = max(stage.memory_bytes for stage in plan.stages)
    shape = plan.shape if len(plan.stages) > 1 else f"dp{plan.replicas[0]}"
    minibatch_s = max(plan.bottleneck_s or 0.0, updated_s)
    return given.made("pipedream", shape, 1, minibatch_s, memory_bytes)


class _Cuts:
    """The planner's cuts into equally replicated stages, each found once. None: no such cuts."""

    def __init__(self, given: Predicting) -> None:
        self._given = given
        self._plans: dict[tuple[int, int], Plan | None] = {}

    def of(self, pipelines: Pipelines) -> Plan | None:
        """For these pipelines."""
        if pipelines.stages > len(self._given.profile.nodes):
            return None
        key = pipelines.stages, pipelines.replicas
        if key not in self._plans:
            flows, fabric = _all_flows(pipelines), self._given.fabric
            link = fabric.slowest(flows, fabric.load(flows))
            try:
                self._plans[key] = even_plan(
                    self._given.profile,
                    (pipelines.replicas,) * pipelines.stages,
                    workers=self._given.workers,
                    bandwidth=link.bandwidth,
                )
            except PlanError:  # the model cannot be cut into so many
                self._plans[key] = None
        return self._plans[key]


def _scheduled(given: Predicting, framework: str, cuts: _Cuts) -> Prediction | None:
    """The best pipelines of a schedule."""
    candidates = []
    for pipelines in _pipelines(given, framework):
        plan = cuts.of(pipelines)
        if plan is not None and plan.stages:
            candidates.append(_on_pipelines(given, pipelines, plan.stages))
    fitting = [each for each in candidates if each.fits]
    return min(fitting, key=lambda each: each.minibatch_s, default=None)


def _pipelines(given: Predicting, framework: str) -> Iterator[Pipelines]:
    """Of every length that divides the workers."""
    rule = RULES[framework]
    for length in range(2, given.workers + 1):
        if given.workers % length:
            continue
        of_each = 1 if rule.one_at_a_time else given.microbatches or length * max(1, rule.least)
        replicas = given.workers // length
        try:
            yield Pipelines(
                framework, length, replicas, rule.stages_per_rank or 2, of_each * replicas
            )
        except PlanError:  # too few microbatches for so many ranks
            continue


def _on_pipelines(given: Predicting, pipelines: Pipelines, stages: Sequence[Stage]) -> Prediction:
    nodes = {node.id: node for node in given.profile.nodes}
    weights = weight_bytes(given.profile) or 1.0
    rings = [_replicas(pipelines, place) for place in range(pipelines.ranks)]
    load = given.fabric.load(hop for each in rings for hop in hops_of(each))
    seconds: dict[tuple[int, str], float] = {}
    for number, stage in enumerate(stages):
        ring = given.fabric.ring(rings[pipelines.place_of(number)], load)
        backward_s = sum(nodes[name].backward_s for name in stage.nodes)
        seconds[number, "F"] = sum(nodes[name].forward_s for name in stage.nodes)
        seconds[number, "B"] = backward_s
        seconds[number, "I"] = seconds[number, "W"] = backward_s / 2
        averaged_s = ring.all_reduce(pipelines.replicas).seconds(stage.parameter_bytes)
        seconds[number, "U"] = averaged_s + stage.parameter_bytes / weights * given.update_s
    orders = orders_of(pipelines, updates=True)
    step_s = batch_seconds(orders, seconds, _transfers(given.fabric, pipelines, stages))
    memory_bytes = max(
        sum(
            stage_bytes(
                given.profile,
                stages[number].nodes,
                stages[number].parameter_bytes,
                stages[number - 1].output_bytes if number else 0.0,
                kept,
            )
            for number, kept in kept_of.items()
        )
        for kept_of in map(in_flight, orders)
    )
    shape = f"pp{pipelines.ranks}" + (f"xdp{pipelines.replicas}" if pipelines.replicas > 1 else "")
    return given.made(pipelines.framework, shape, pipelines.microbatches, step_s, memory_bytes)


def _transfers(
    fabric: Fabric, pipelines: Pipelines, stages: Sequence[Stage]
) -> dict[tuple[int, int], float]:
    """Seconds of a message between neighbouring stages, while all ranks send to their
    neighbours."""
    load = fabric.load(_all_flows(pipelines))
    seconds = {}
    for before in range(len(stages) - 1):
        size = stages[before].output_bytes
        for pair in ((before, before + 1), (before + 1, before)):
            if flows := _flows(pipelines, *pair):
                seconds[pair] = fabric.slowest(flows, load).seconds(size)
    return seconds


def _replicas(pipelines: Pipelines, place: int) -> list[int]:
    """The workers at one place of all pipelines."""
    return [pipelines.layout.rank(place, replica) for replica in range(pipelines.replicas)]


def _flows(pipelines: Pipelines, source: int, target: int) -> list[Flow]:
    """Messages from one stage to another, of all replicas; none where both are on one rank."""
    places = pipelines.place_of(source), pipelines.place_of(target)
    if places[0] == places[1]:
        return []
    return list(zip(*(_replicas(pipelines, place) for place in places), strict=True))


def _all_flows(pipelines: Pipelines) -> list[Flow]:
    """Between all neighbours, forward and back; each pair of ranks once."""
    flows: dict[Flow, None] = {}
    for before in range(pipelines.stages - 1):
        flows |= dict.fromkeys(_flows(pipelines, before, before + 1))
        flows |= dict.fromkeys(_flows(pipelines, before + 1, before))
    return list(flows)
