"""Which version of a stage's weights a minibatch meets, by the rules of pipeline_reference.py.
Written out apart from the schedule, which it proves."""

from pytest_dnnbench.planner.schedule import Schedule


def weights_met(schedule: Schedule, stage: int, minibatch: int) -> int:
    """The version of a stage's weights that a minibatch of a run meets, by the rule."""
    replicas, m = schedule.layout.replicas, schedule.microbatches
    if schedule.variant == "pipedream-flush":
        return minibatch // m
    if schedule.variant == "pipedream-2bw":
        return max(minibatch // m - 1, 0)
    if not schedule.vertical_sync:
        return max(minibatch // replicas[stage] - schedule.warmup[stage], 0)
    minibatches_in_first_stage = replicas[0] * max(minibatch // replicas[0] - schedule.warmup[0], 0)
    version = 0
    while (version + 1) * replicas[stage] <= minibatches_in_first_stage:
        version += 1
    return version
