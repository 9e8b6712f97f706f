"""The planner's plan under the schedules of our own: how many microbatches an update has, what the
fabric is to its stages, and the memory of a replica.

Not here: how long a step takes (plan_seconds.py), and the prediction (predictions.py).
"""

import math
from itertools import pairwise

import numpy as np

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.fabric import Fabric, Workers, hops_of
from pytest_dnnbench.planner.layout import Layout
from pytest_dnnbench.planner.plan import Plan
from pytest_dnnbench.planner.profile import Profile
from pytest_dnnbench.planner.schedule import Schedule, default_microbatches
from pytest_dnnbench.planner.training_memory import stage_bytes

Pair = tuple[int, int]
"""Two neighbouring stages."""

MOST_MICROBATCHES = 1 << 12
"""Of each pipeline in an update: every pass of each of them is played."""


def own_schedule(plan: Plan, variant: str, microbatches_of_each: int | None) -> Schedule | None:
    """None where there are no stages, or no number of microbatches that can be played. Where a
    number is given, it is that of the stage with the fewest per replica."""
    if not plan.stages:
        return None
    layout = Layout(plan.replicas)
    if variant == "pipedream":
        return Schedule(variant, layout)
    shared = math.lcm(*plan.replicas)
    microbatches = default_microbatches(layout)
    if microbatches_of_each is not None:
        microbatches = math.ceil(microbatches_of_each * max(plan.replicas) / shared) * shared
    even = len(set(plan.replicas)) == 1
    if (microbatches // plan.replicas[0] if even else microbatches) > MOST_MICROBATCHES:
        return None
    try:
        return Schedule(variant, layout, microbatches)
    except PlanError:  # too few microbatches for two versions of the weights
        return None


def own_wiring(fabric: Fabric, layout: Layout, plan: Plan) -> tuple[list[float], dict[Pair, float]]:
    """The average of each stage, while all stages average; and each message between neighbours,
    while all replicas of all stages send."""
    ends = np.cumsum((0, *layout.replicas))
    stages = [np.arange(first, end) for first, end in pairwise(ends)]
    load = fabric.load(np.concatenate([hops_of(each) for each in stages]))
    averages = [
        fabric.ring(ranks, load).all_reduce(len(ranks)).seconds(stage.parameter_bytes)
        for ranks, stage in zip(stages, plan.stages, strict=True)
    ]
    flows: dict[Pair, Workers] = {}
    for number, (before, after) in enumerate(pairwise(stages)):
        turns = np.arange(math.lcm(len(before), len(after)))
        forward = np.stack([before[turns % len(before)], after[turns % len(after)]], axis=1)
        flows[number, number + 1], flows[number + 1, number] = forward, forward[:, ::-1]
    if not flows:
        return averages, {}
    load = fabric.load(np.concatenate(list(flows.values())))
    return averages, {
        pair: fabric.slowest(each, load).seconds(plan.stages[min(pair)].output_bytes)
        for pair, each in flows.items()
    }


def own_bytes(profile: Profile, plan: Plan, schedule: Schedule, number: int) -> float:
    """Of a replica of a stage. Where an update has several minibatches, their sum is beside the
    gradients of the newest; 2BW keeps two versions of the weights."""
    stage = plan.stages[number]
    if schedule.variant == "pipedream":
        return stage.memory_bytes
    of_each = schedule.microbatches // stage.replicas
    kept = min(stage.versions, of_each)
    entering = plan.stages[number - 1].output_bytes if number else 0.0
    weights = stage.parameter_bytes
    copies = (schedule.microbatches > 1) + (schedule.variant == "pipedream-2bw")
    return stage_bytes(profile, stage.operators, weights, entering, kept) + copies * weights
