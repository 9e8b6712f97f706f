"""The options of a pipeline's case: what they mean together, and which numbers of ranks they fit.

The checks need no torch and come before any rank starts. Not here: the schedule itself
(schedule.py), and the plan for `--dnn-stages auto` (on the rank, pipeline/planning.py).
"""

import math
from collections.abc import Mapping

from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.layout import Layout, layout_of, stages_in
from pytest_dnnbench.planner.plan import read_plan
from pytest_dnnbench.planner.schedule import Schedule, default_microbatches

AUTO = "auto"

Options = Mapping[str, str | int | float | bool]


def stages_fit(variant: str, ranks: int, options: Options) -> bool:
    """Whether the requested stages take exactly `ranks` ranks. `auto` takes any number.

    Raises PlanError for options that are wrong on any number of ranks, and for microbatches that
    are wrong on this number.
    """
    check_pipeline_options(options)
    try:
        layout = forced_layout(options, ranks)
    except PlanError:
        return False
    if layout is not None:
        schedule_of(variant, layout, options)
    return True


def forced_layout(options: Options, ranks: int) -> Layout | None:
    """The layout of the user's plan or stages, None for `auto`. Raises PlanError if it does not
    have `ranks` ranks."""
    shape = str(options.get("stages", AUTO))
    if path := plan_file(options):
        layout = Layout(read_plan(path).require_feasible().replicas)
        if layout.world_size != ranks:
            raise PlanError(
                f"plan {path} ({layout}) takes {counted(layout.world_size, 'rank')}, not {ranks}:"
                f" plan for {ranks}"
            )
        return layout
    return None if shape == AUTO else layout_of(shape, ranks)


def schedule_of(variant: str, layout: Layout, options: Options) -> Schedule:
    """The schedule of a case on a layout. Raises PlanError for microbatches that do not fit it."""
    requested = int(options.get("microbatches", 0))
    microbatches = 1 if variant == "pipedream" else requested or default_microbatches(layout)
    return Schedule(variant, layout, microbatches, bool(options.get("vertical_sync", False)))


def plan_file(options: Options) -> str:
    """The path of the user's plan; empty without one."""
    return str(options.get("plan", ""))


def check_pipeline_options(options: Options) -> None:
    """Raises PlanError for options of a pipeline that are wrong on any number of ranks."""
    stages, microbatches = str(options.get("stages", AUTO)), int(options.get("microbatches", 0))
    bandwidth = float(options.get("bandwidth", 0.0))
    if stages != AUTO:
        try:
            stages_in(stages)
        except PlanError as error:
            raise PlanError(f"--dnn-{error}") from None
    if path := plan_file(options):
        read_plan(path).require_feasible()
        if stages != AUTO:
            raise PlanError(
                f"--dnn-stages {stages} and --dnn-plan {path} both say what the stages are:"
                " give one"
            )
    if microbatches < 0:
        raise PlanError(
            f"--dnn-microbatches is {microbatches}: give at least 1, or 0 for one per rank"
        )
    if not (math.isfinite(bandwidth) and bandwidth >= 0):
        raise PlanError(
            f"--dnn-bandwidth is {bandwidth}: give bytes per second, or 0 to have it measured"
        )
