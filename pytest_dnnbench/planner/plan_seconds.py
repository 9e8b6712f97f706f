"""What a stage of a plan takes besides its passes: the update of its weights, the average over its
replicas, its messages. The planner's cost model leaves out the first, and lets compute hide the
others.

On GPUs a link carries bytes while the GPU computes. CPU ranks have cores that do both, so nothing
is hidden there. Not here: the cost model of plans (corrected.py), other frameworks' steps
(predictions.py).
"""

from pytest_dnnbench.planner.fabric import Link
from pytest_dnnbench.planner.plan import Plan, PlannedStage


def updates_s(plan: Plan, update_s: float) -> list[float]:
    """By stage, its part of the seconds of an update of all weights."""
    weights = sum(stage.parameter_bytes for stage in plan.stages)
    return [stage.parameter_bytes / (weights or 1) * update_s for stage in plan.stages]


def averages_s(plan: Plan, bandwidth: float) -> list[float]:
    """By stage, the all-reduce of its gradients over its replicas, on links of so many bytes per
    second."""
    return [
        Link(bandwidth).all_reduce(stage.replicas).seconds(stage.parameter_bytes)
        for stage in plan.stages
    ]


def minibatch_s(plan: Plan, update_s: float, bandwidth: float, *, overlaps: bool) -> float:
    """Seconds between two minibatches that complete under pipedream, whose replicas take turns and
    average once in a turn. Without `overlaps`, messages and averages add to the compute."""
    times = [plan.bottleneck_s or 0.0]
    averages = averages_s(plan, bandwidth)
    for number, (stage, own_s) in enumerate(
        zip(plan.stages, updates_s(plan, update_s), strict=True)
    ):
        busy_s = stage.compute_s + own_s
        if not overlaps:
            busy_s += averages[number] + _messages_s(plan.stages, number, bandwidth)
        times.append(busy_s / stage.replicas)
    return max(times)


def _messages_s(stages: tuple[PlannedStage, ...], number: int, bandwidth: float) -> float:
    """Of a minibatch, with its gradients, over the cuts at both ends of a stage."""
    before = stages[number - 1].output_bytes if number else 0.0
    after = stages[number].output_bytes if number < len(stages) - 1 else 0.0
    return 2.0 * (before + after) / bandwidth
