"""From a profile to the plan that PipeDream's published optimizer would make, under its cost model.

Reached from the `plan` command, for comparison: cases are planned by planner/predict.py.
"""

from collections.abc import Sequence

from pytest_dnnbench.planner.blocks import flat_stages, levels_of
from pytest_dnnbench.planner.pipedream.cost_model import (
    OriginalOptions,
    best_blocks,
    blocks_s,
    data_parallel_s,
)
from pytest_dnnbench.planner.plan import Plan
from pytest_dnnbench.planner.predict import check_limits, plan_of, workers_of
from pytest_dnnbench.planner.profile import Profile
from pytest_dnnbench.planner.states import states_of

ORIGINAL = "original"
"""The name of the cost model of these plans."""


def original_plan(
    profile: Profile,
    workers: Sequence[int],
    bandwidths: Sequence[float],
    *,
    memory_bytes: float | None = None,
    replication: bool = True,
    activation_compression: float | None = 1.0,
) -> Plan:
    """The plan with the least bottleneck that uses every worker. Arguments and errors as of
    `predict.plan_for`; without such a plan, one without stages that says why."""
    levels = levels_of(workers, bandwidths)
    check_limits(memory_bytes, activation_compression)
    states = states_of(profile)
    options = OriginalOptions(activation_compression, memory_bytes, replication)
    blocks = best_blocks(states, levels, options)
    reason, bottleneck_s = "", None
    if blocks:
        bottleneck_s = blocks_s(states, blocks, levels, activation_compression)
    else:
        reason = (
            f"the original cost model puts all {workers_of(levels)} workers to use, and no stages"
            " do that within its limits: give more memory, allow replication, or use the default"
            " cost model"
        )
    return plan_of(
        states,
        levels,
        flat_stages(blocks),
        bottleneck_s,
        reason=reason,
        cost_model=ORIGINAL,
        data_parallel_s=data_parallel_s(
            float(states.compute_s[-1]), float(states.parameter_bytes[-1]), levels
        ),
    )
