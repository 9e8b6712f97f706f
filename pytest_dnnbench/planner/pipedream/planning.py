"""From a profile to the plan that PipeDream's published optimizer would make, under its cost model.

Reached from the `plan` command, for comparison: cases are planned by planner/predict.py.
"""

from collections.abc import Sequence

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.levels import Level, levels_of
from pytest_dnnbench.planner.nested_stages import flat_stages
from pytest_dnnbench.planner.pipedream.cost_model import (
    OriginalOptions,
    best_stages,
    data_parallel_s,
    least_with_impossible_stages_s,
    stages_s,
)
from pytest_dnnbench.planner.pipedream.states import original_states_of
from pytest_dnnbench.planner.plan import Plan
from pytest_dnnbench.planner.predict import check_limits, plan_of, workers_of
from pytest_dnnbench.planner.profile import Profile
from pytest_dnnbench.planner.states import States

ORIGINAL = "original"
"""The name of the cost model of these plans."""

_ROUNDING = 1e-9
"""Relative: the sums of two ways to compute the same time."""


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
    `predict.plan_for`, and PlanError for a graph on which the original would do something else;
    without a plan that uses every worker, one without stages that says why."""
    levels = levels_of(workers, bandwidths)
    check_limits(memory_bytes, activation_compression)
    states = original_states_of(profile)
    options = OriginalOptions(activation_compression, memory_bytes, replication)
    stages = best_stages(states, levels, options)
    reason, bottleneck_s = "", None
    if stages:
        bottleneck_s = stages_s(states, stages, levels, activation_compression)
        _check_equal(states, levels, options, bottleneck_s)
    else:
        reason = (
            f"the original cost model puts all {workers_of(levels)} workers to use, and no stages"
            " do that within its limits: give more memory, allow replication, or use the default"
            " cost model"
        )
    return plan_of(
        profile,
        states,
        levels,
        flat_stages(stages),
        bottleneck_s,
        reason=reason,
        cost_model=ORIGINAL,
        data_parallel_s=data_parallel_s(
            float(states.compute_s[-1]), float(states.parameter_bytes[-1]), levels
        ),
    )


def _check_equal(
    states: States, levels: Sequence[Level], options: OriginalOptions, bottleneck_s: float
) -> None:
    """Raises PlanError where the original may print less than the best plan takes."""
    if len(levels) == 1:
        return
    least_s = least_with_impossible_stages_s(states, levels, options)
    if least_s < bottleneck_s * (1 - _ROUNDING):
        raise PlanError(
            f"on {len(levels)} levels the original may print {least_s:.6g} s for this graph, from"
            " stages that end at a state which does not contain their first state: no model can be"
            f" cut so, and its best plan takes {bottleneck_s:.6g} s; plan one level, or use the"
            " default cost model"
        )
