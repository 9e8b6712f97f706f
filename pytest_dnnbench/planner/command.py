"""`dnnbench plan`: reads a profile, prints the plan for people or as JSON.

What lives here: arguments, and the choice of the cost model. Not here: planning (predict.py,
pipedream/planning.py) and the table (table.py).
"""

import argparse

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.parsing import shortened
from pytest_dnnbench.planner.pipedream.planning import ORIGINAL, original_plan
from pytest_dnnbench.planner.predict import CORRECTED, plan_for
from pytest_dnnbench.planner.profile_file import read_profile
from pytest_dnnbench.planner.table import format_plan

_PLANNING = {CORRECTED: plan_for, ORIGINAL: original_plan}
"""By cost model."""


def main(arguments: list[str]) -> int:
    """Prints the plan and returns the exit status: 0 with a plan, 1 if none fits. Raises
    ProfileError or PlanError for wrong arguments."""
    options = _parser().parse_args(arguments)
    plan = _PLANNING[options.cost_model](
        read_profile(options.profile),
        _workers(options.gpus),
        _numbers("bandwidth", options.bandwidth),
        memory_bytes=_numbers("memory", options.memory)[0] if options.memory else None,
        replication=not options.no_replication,
        activation_compression=None if options.activations_free else 1.0,
    )
    print(plan.to_json() if options.json else format_plan(plan))
    return 0 if plan.stages else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dnnbench plan",
        description="Splits a profiled model into pipeline stages.",
    )
    parser.add_argument(
        "--profile", required=True, metavar="FILE", help="a profile: JSON, or PipeDream's own text"
    )
    parser.add_argument(
        "--gpus", required=True, metavar="N[xM...]", help="number of GPUs, or GPUs per node x nodes"
    )
    parser.add_argument(
        "--bandwidth",
        required=True,
        metavar="BYTES[,BYTES...]",
        help="bytes per second for each level, innermost first",
    )
    parser.add_argument(
        "--cost-model", choices=_PLANNING, default=CORRECTED, help="default: %(default)s"
    )
    parser.add_argument("--memory", metavar="BYTES", help="memory of each GPU; default: no limit")
    parser.add_argument("--no-replication", action="store_true", help="one replica per stage")
    parser.add_argument(
        "--activations-free", action="store_true", help="let transfers between stages cost nothing"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _workers(text: str) -> list[int]:
    try:
        return [int(count) for count in text.split("x")]
    except ValueError:
        raise PlanError(
            f"--gpus {shortened(text)}: write a number, or GPUs per node x nodes, for instance 4x2"
        ) from None


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise PlanError(
            f"--{option} {shortened(text)}: write a number of bytes, for instance 1.25e9"
        ) from None
