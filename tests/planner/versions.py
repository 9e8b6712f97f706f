"""How many versions of the weights a schedule makes a replica keep, worked out from its rule."""

from pytest_dnnbench.planner.schedule import Schedule


def versions_kept(rule: Schedule, stage: int) -> int:
    """The most versions of its weights that a replica of a stage holds at a time, in a long run."""
    if rule.variant == "pipedream-flush":
        return 1
    if rule.variant == "pipedream-2bw":
        return 2
    newest_after = range(1, 4 * rule.layout.world_size + 4)
    replicas = rule.layout.replicas[stage]
    return 1 + max(count - rule.version(stage, count * replicas) for count in newest_after)
