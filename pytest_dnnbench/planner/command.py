"""`dnnbench plan`: reads a profile, prints the plan for people or as JSON.

What lives here: arguments. Not here: planning (predict.py) and the table (table.py).
"""

import argparse

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.predict import CORRECTED, COST_MODELS, plan_for
from pytest_dnnbench.planner.profile_file import read_profile
from pytest_dnnbench.planner.table import format_plan


def main(arguments: list[str]) -> int:
    """Exit status: 0 a plan, 1 none fits. Raises ProfileError or PlanError for arguments that
    cannot be."""
    asked = _parser().parse_args(arguments)
    plan = plan_for(
        read_profile(asked.profile),
        _workers(asked.gpus),
        _numbers("bandwidth", asked.bandwidth),
        cost_model=asked.cost_model,
        memory_bytes=_numbers("memory", asked.memory)[0] if asked.memory else None,
        replication=not asked.no_replication,
        activation_compression=None if asked.activations_free else 1.0,
    )
    print(plan.to_json() if asked.json else format_plan(plan))
    return 0 if plan.stages else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dnnbench plan",
        description="Splits a profiled model into pipeline stages.",
    )
    parser.add_argument(
        "--profile", required=True, metavar="FILE", help="JSON, or PipeDream's own text"
    )
    parser.add_argument(
        "--gpus", required=True, metavar="N[xM...]", help="GPUs, or GPUs per node x nodes"
    )
    parser.add_argument(
        "--bandwidth",
        required=True,
        metavar="BYTES[,BYTES...]",
        help="per second, for each level, innermost first",
    )
    parser.add_argument(
        "--cost-model", choices=COST_MODELS, default=CORRECTED, help="default: %(default)s"
    )
    parser.add_argument("--memory", metavar="BYTES", help="of each GPU; default: no limit")
    parser.add_argument("--no-replication", action="store_true", help="one replica per stage")
    parser.add_argument(
        "--activations-free", action="store_true", help="what crosses a cut costs nothing"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def _workers(text: str) -> list[int]:
    try:
        return [int(count) for count in text.split("x")]
    except ValueError:
        raise PlanError(
            f"--gpus {text}: write a number, or GPUs per node x nodes, for instance 4x2"
        ) from None


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise PlanError(
            f"--{option} {text}: write a number of bytes, for instance 1.25e9"
        ) from None
