"""`dnnbench plan`: reads a profile, prints the plan and what it predicts, for people or as JSON.

What lives here: arguments, and the choice of the cost model. Not here: planning (predict.py,
pipedream/planning.py), predictions of other frameworks (predictions.py) and the tables (table.py,
prediction_table.py).
"""

import argparse
import json

import msgspec

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.parsing import shortened
from pytest_dnnbench.planner.pipedream.planning import ORIGINAL, original_plan
from pytest_dnnbench.planner.predict import CORRECTED, plan_for
from pytest_dnnbench.planner.prediction_table import format_predictions
from pytest_dnnbench.planner.predictions import Prediction, predictions, unpredicted
from pytest_dnnbench.planner.profile_file import read_profile
from pytest_dnnbench.planner.table import format_plan

_PLANNING = {CORRECTED: plan_for, ORIGINAL: original_plan}
"""By cost model."""

_FACTORS = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BYTES = "bytes, for instance 1.25e9 or 25G"


def main(arguments: list[str]) -> int:
    """Prints the plan and returns the exit status: 0 with a plan, 1 if none fits. Raises
    ProfileError or PlanError for wrong arguments."""
    options = _parser().parse_args(arguments)
    profile = read_profile(options.profile)
    bandwidths = _numbers("bandwidth", options.bandwidth)
    memory_bytes = None if options.memory is None else _memory(options.memory)
    plan = _PLANNING[options.cost_model](
        profile,
        _workers(options.gpus),
        bandwidths,
        memory_bytes=memory_bytes,
        replication=not options.no_replication,
        activation_compression=None if options.activations_free else 1.0,
    )
    predicted: list[Prediction] = []
    if options.cost_model == CORRECTED:
        predicted = predictions(
            profile,
            plan,
            bandwidths,
            latencies_s=() if options.latency is None else _numbers("latency", options.latency),
            memory_bytes=memory_bytes,
            microbatches=options.microbatches,
        )
    elif options.latency is not None or options.microbatches is not None:
        raise PlanError(
            f"--latency and --microbatches are for predictions, which --cost-model {ORIGINAL} has"
            " none of: leave them out"
        )
    if options.json:
        document = json.loads(plan.to_json())
        document["predictions"] = [msgspec.to_builtins(each) for each in predicted]
        document["not_predicted"] = unpredicted(predicted)
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        print(format_plan(plan))
        if predicted:
            print("", *format_predictions(profile, predicted), sep="\n")
    return 0 if plan.stages else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dnnbench plan",
        description="Splits a profiled model into pipeline stages, and predicts the steps of ddp,"
        " fsdp and pipelines.",
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
        help="bytes per second of a link on each level, innermost first, as in 300G,25G",
    )
    parser.add_argument(
        "--latency",
        metavar="SECONDS[,SECONDS...]",
        help="of a message on each level, for the predictions; default: 0",
    )
    parser.add_argument(
        "--microbatches",
        type=int,
        metavar="N",
        help="of each pipeline in an update, for the predictions; default: one per rank",
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


def _memory(text: str) -> float:
    number, *others = _numbers("memory", text)
    if others:
        raise PlanError(f"--memory {shortened(text)}: every GPU has the same: give one number")
    return number


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [_number(number) for number in text.split(",")]
    except ValueError:
        what = "seconds, for instance 5e-6" if option == "latency" else _BYTES
        raise PlanError(f"--{option} {shortened(text)}: write a number of {what}") from None


def _number(text: str) -> float:
    factor = _FACTORS.get(text[-1:])
    return float(text) if factor is None else float(text[:-1]) * factor
