"""What the stages of a plan take: their passes, and what the planner's cost model leaves out or
lets compute hide. That is the update of the weights, the sum of the gradients of several
minibatches, the average over replicas, and messages.

    sum        each minibatch's gradients are added to those before, which takes as long as adding
               gradients of all weights did in the profile (`add_s`), by weights; a copy into the
               sum and its division by their number count as another addition each, for memory
               bounds all three
    average    an all-reduce of a ring over the replicas
    update     `update_s` of the profile, by weights

On GPUs a link carries bytes while the GPU computes. CPU ranks have cores that do both, so nothing
is hidden there. Not here: the cost model of plans (corrected.py), the order of passes (orders.py),
other frameworks' steps (predictions.py).
"""

from collections.abc import Sequence

from pytest_dnnbench.planner.bubbles import Transfers, batch_seconds
from pytest_dnnbench.planner.fabric import Link
from pytest_dnnbench.planner.layout import Layout
from pytest_dnnbench.planner.orders import flushing_orders
from pytest_dnnbench.planner.plan import Plan
from pytest_dnnbench.planner.schedule import Schedule

PassSeconds = dict[tuple[int, str], float]
"""By stage and kind of pass (bubbles.Kind)."""


def updates_s(plan: Plan) -> list[float]:
    """By stage, the update of its weights."""
    return _by_weights(plan, plan.update_s)


def averages_s(plan: Plan, bandwidth: float) -> list[float]:
    """By stage, the all-reduce of its gradients over its replicas, on links of so many bytes per
    second."""
    return [
        Link(bandwidth).all_reduce(stage.replicas).seconds(stage.parameter_bytes)
        for stage in plan.stages
    ]


def messages_s(plan: Plan, bandwidth: float) -> dict[tuple[int, int], float]:
    """By pair of neighbouring stages, a message from the first to the second: the results of a
    minibatch, or the gradients of them, which are as large."""
    link = Link(bandwidth)
    return {
        pair: link.seconds(stage.output_bytes)
        for before, stage in enumerate(plan.stages[:-1])
        for pair in ((before, before + 1), (before + 1, before))
    }


def pass_seconds(
    plan: Plan,
    averages: Sequence[float],
    additions: float,
    final: float = 1.0,
    runtime_s: float = 0.0,
) -> PassSeconds:
    """Of one minibatch in an update of several: its share of `additions` of gradients is in its
    backward pass; the update comes after `final` more of them and the average. In a backward pass
    in two, torch lets the first stage, whose inputs need no gradients, make all of it second.
    `runtime_s` is what the runtime takes itself with each pass."""
    seconds: PassSeconds = {}
    adding = _by_weights(plan, plan.add_s)
    for number, (stage, update_s) in enumerate(zip(plan.stages, updates_s(plan), strict=True)):
        forward_s, backward_s = stage.passes_s
        added_s = additions * adding[number]
        seconds[number, "F"], seconds[number, "L"] = forward_s + runtime_s, 0.0
        seconds[number, "B"] = backward_s + added_s + runtime_s
        first, second = plan.halves if number else (0.0, 1.0)
        seconds[number, "I"] = first * backward_s + runtime_s
        seconds[number, "W"] = second * backward_s + added_s + runtime_s
        seconds[number, "U"] = averages[number] + final * adding[number] + update_s
    return seconds


def minibatch_s(
    plan: Plan,
    schedule: Schedule,
    averages: Sequence[float],
    messages: Transfers,
    *,
    overlaps: bool,
) -> float:
    """Seconds between two minibatches that complete under `pipedream` or `pipedream-2bw`, whose
    pipelines stay full: those of the stage that is busiest. Its replicas take turns, and update
    once in as many minibatches as the schedule says. Without `overlaps`, messages and averages add
    to the compute; with it the planner's bottleneck has `pipedream`'s average."""
    is_planned = schedule.variant == "pipedream"
    times = [plan.bottleneck_s or 0.0] if is_planned else []
    adding = _by_weights(plan, plan.add_s)
    for number, (stage, update_s) in enumerate(zip(plan.stages, updates_s(plan), strict=True)):
        size = schedule.update_size(number)
        sums_s = adding[number] if size > 1 else 0.0
        own_messages_s = sum(each for pair, each in messages.items() if number in pair)
        each_s, update_s = stage.compute_s + sums_s, update_s + sums_s
        if overlaps:
            times.append(own_messages_s / stage.replicas)
        else:
            each_s += own_messages_s
        if not (overlaps and is_planned):
            update_s += averages[number]
        times.append(each_s / stage.replicas + update_s / size)
    return max(times)


def flushed_s(
    plan: Plan, schedule: Schedule, averages: Sequence[float], messages: Transfers
) -> float:
    """Seconds of an update under `pipedream-flush`: its passes, played through. Of pipelines that
    are all alike, one is."""
    replicas = schedule.layout.replicas
    if len(set(replicas)) == 1:
        each = schedule.microbatches // replicas[0]
        schedule = Schedule(schedule.variant, Layout((1,) * len(replicas)), each)
    of_several = plan.replicas[0] > 1 or schedule.microbatches > 1
    sums = 1.0 if of_several else 0.0  # the gradients of a single one are its mean
    seconds = pass_seconds(plan, averages, sums, sums)
    return float(batch_seconds(flushing_orders(schedule), seconds, messages))


def _by_weights(plan: Plan, seconds: float) -> list[float]:
    """By stage, its part of what takes so long for all weights."""
    weights = sum(stage.parameter_bytes for stage in plan.stages)
    return [stage.parameter_bytes / (weights or 1) * seconds for stage in plan.stages]
