"""All of torchvision's classifiers: which can be traced, profiled, planned, cut and run in stages.

    python -m benchmarks.torchvision_models [MODEL ...] [--minute 60] [--most-parameters 150]
    python -m benchmarks.torchvision_models --run [MODEL ...] [--image-size 64] [--stages 2]

A row per model, at the smallest size of 28 and 224 pixels that it takes: operators, seconds to
trace and to profile (one repetition, 2 images), the plan for two workers in two stages, and one
training step of the two stages in turn, compared with the whole model's gradients parameter by
parameter in float64. A model that does not get there says why; one that takes longer than a minute
to trace and profile is left where it is. Exit status 1 where a model that fits fails.

With `--run`, each model is planned, proven and timed for two steps on two CPU ranks under
`pipedream` instead (torchvision_ranks.py), in two stages or, with `--stages 1`, as two replicas of
one. A row says how much of its bound the largest deviation of the proof uses up, or why the model
did not run.
"""

import argparse
import copy
import math
import sys
import time
import warnings
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.torchvision_ranks import outcomes
from pytest_dnnbench.catalog.models import OF_LARGE_IMAGES, TORCHVISION_MODELS
from pytest_dnnbench.errors import DnnbenchError
from pytest_dnnbench.planner.predict import even_plan
from pytest_dnnbench.rank.pipeline.cut import cut
from pytest_dnnbench.rank.profiling.operator_graph import trace
from pytest_dnnbench.rank.profiling.profiler import Effort, profile_module
from pytest_dnnbench.rank.proof.randomness import NoRandomness
from pytest_dnnbench.rank.workloads.image_models import build_model, example_images

TOLERANCE = 1e-8
"""In float64, relative to the largest element of a gradient. The stages compute the model's sums in
the model's order, so they are equal but for what deep batch normalisation makes of 1e-16."""


@dataclass(slots=True)
class Row:
    """What became of one model. `reason` is empty where all steps were taken."""

    name: str
    size: int
    operators: int = 0
    traced_s: float = 0.0
    profiled_s: float = 0.0
    shape: str = ""
    deviates: float | None = None
    reason: str = ""
    fails: bool = False

    def __str__(self) -> str:
        step = "" if self.deviates is None else f"{self.deviates:.1e}"
        return (
            f"{self.name:20} {self.size:4} {self.operators:5} {self.traced_s:7.1f}"
            f" {self.profiled_s:8.1f} {self.shape:5} {step:8} {self.reason}"
        )


def main() -> int:
    """Prints a row per model and a count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=list(TORCHVISION_MODELS))
    parser.add_argument("--minute", type=float, default=60.0, help="seconds to trace and profile")
    parser.add_argument("--most-parameters", type=float, default=150.0, help="millions")
    parser.add_argument("--run", action="store_true", help="on two CPU ranks, under pipedream")
    parser.add_argument("--image-size", type=int, default=64, help="with --run: pixels, at least")
    parser.add_argument("--stages", default="2", help="with --run: as --dnn-stages")
    options = parser.parse_args()
    if options.run:
        return _run(options)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # as a rank has; on a busy machine, two wait for each other
    print("model                size   ops trace s profile s plan  deviation reason", flush=True)
    rows = []
    for name in options.models:
        rows.append(_row(name, options.minute, options.most_parameters))
        print(rows[-1], flush=True)
    steps = sum(row.deviates is not None for row in rows)
    planned = sum(bool(row.shape) for row in rows)
    print(f"{len(rows)} models, {planned} planned and cut, {steps} proven in two stages")
    return int(any(row.fails for row in rows))


def _run(options: argparse.Namespace) -> int:
    """Runs the models that are small enough, smallest first, and prints a row of each."""
    millions = {name: _millions(name) for name in options.models}
    small = [name for name in options.models if millions[name] <= options.most_parameters]
    small.sort(key=millions.__getitem__)
    print("model                size      s plan  bound reason", flush=True)
    ran = 0
    for outcome in outcomes(small, options.image_size, options.stages):
        ran += not outcome.reason
        print(outcome, flush=True)
    print(f"{len(options.models)} models, {len(small)} small enough, {ran} proven and timed")
    return int(ran < len(small))


def _millions(name: str) -> float:
    """Millions of parameters of a model, as torchvision's table of published weights has them."""
    # Here and not above: `rank.models` prepares the import of torchvision.
    from torchvision.models import get_model_weights

    weights = next(iter(get_model_weights(name)))
    return float(weights.meta["num_params"]) / 1e6


def _row(name: str, minute: float, most_parameters: float) -> Row:
    row = Row(name, 224 if TORCHVISION_MODELS[name] in OF_LARGE_IMAGES else 28)
    torch.manual_seed(0)
    try:
        model = build_model(TORCHVISION_MODELS[name], row.size)
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        if millions > most_parameters:
            row.reason = f"{millions:.0f} million parameters"
            return row
        _fill(row, model, minute)
    except DnnbenchError as error:
        row.reason, row.fails = str(error), True
    return row


def _fill(row: Row, model: nn.Module, minute: float) -> None:
    images = example_images(row.size, 2)
    start = time.perf_counter()
    row.operators = len(trace(model, images).operators)
    row.traced_s = time.perf_counter() - start
    if row.traced_s > minute:
        row.reason = "longer than a minute"
        return
    start = time.perf_counter()
    profile = profile_module(copy.deepcopy(model), images, effort=Effort(0, 1))
    row.profiled_s = time.perf_counter() - start
    if row.traced_s + row.profiled_s > minute:
        row.reason = "longer than a minute"
        return
    plan = even_plan(profile, (1, 1))
    row.shape = plan.shape
    row.deviates, where = _step(model, images, [stage.operators for stage in plan.stages])
    if not row.deviates <= TOLERANCE:
        row.reason, row.fails = f"the gradient of {where} is another", True


def _step(
    model: nn.Module, images: torch.Tensor, groups: list[tuple[str, ...]]
) -> tuple[float, str]:
    """The largest deviation of the two stages' gradients from the whole model's, and where."""
    stages = [stage.double() for stage in cut(copy.deepcopy(model), images, groups)]
    whole = copy.deepcopy(model).double()
    images = images.double()
    with NoRandomness():
        expected = whole(images)
        gradient = torch.ones_like(expected)
        expected.backward(gradient)
        passed = stages[0](images)
        inputs = [each.detach().requires_grad_(each.requires_grad) for each in passed]
        (result,) = stages[1](*inputs)
        result.backward(gradient)
        pairs = [
            (out, leaf.grad) for out, leaf in zip(passed, inputs, strict=True) if out.requires_grad
        ]
        torch.autograd.backward([out for out, _ in pairs], [each for _, each in pairs])
    gradients = {name: p.grad for stage in stages for name, p in stage.named_parameters()}
    deviations = {
        name: _deviation(gradients.get(name), p.grad)
        for name, p in whole.named_parameters()
        if p.grad is not None
    }
    where = max(deviations, key=deviations.__getitem__)
    return deviations[where], where


def _deviation(gradient: torch.Tensor | None, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest element of what is expected."""
    if gradient is None:
        return math.inf
    return float((gradient - expected).abs().max() / expected.abs().max().clamp(min=1e-3))


if __name__ == "__main__":
    sys.exit(main())
