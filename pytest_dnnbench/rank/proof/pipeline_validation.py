"""The proof of a pipeline's validation: loss and number of right answers of each minibatch."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from pytest_dnnbench.messages import Correctness
from pytest_dnnbench.planner.schedule import Schedule
from pytest_dnnbench.rank.pipeline.sgd import Sgd
from pytest_dnnbench.rank.proof.arithmetic import FLOAT64, Arithmetic
from pytest_dnnbench.rank.proof.comparison import Comparison
from pytest_dnnbench.rank.proof.distance import Tensors
from pytest_dnnbench.rank.proof.evaluation import evaluated, evaluation_bounds
from pytest_dnnbench.rank.proof.lone_forward import LoneForward
from pytest_dnnbench.rank.proof.proven_pipeline import (
    AnyRuntime,
    Assembled,
    Proven,
    checked_trace,
    share_of,
)
from pytest_dnnbench.rank.proof.randomness import NoRandomness
from pytest_dnnbench.rank.proof.rounding import EveryOperatorRounds
from pytest_dnnbench.rank.proof.unprovable import RANDOM, is_random
from pytest_dnnbench.rank.workloads.batches import wide
from pytest_dnnbench.rank.workloads.workload import Batch, Workload


def prove_validation(proven: Proven, assembled: Assembled) -> Correctness:
    """Validates a few batches in the types that are timed and in float64, and compares each loss
    and number of right answers with those of the model itself."""
    comparison, checked = Comparison(), checked_trace(proven, training=False)
    arithmetic = checked.arithmetic
    batches = [proven.batch(index) for index in range(proven.proof_validation)]
    reference = proven.model(wide=True).eval()
    widened = [wide(batch) for batch in batches]
    for each in (arithmetic, FLOAT64):
        context = nullcontext if each == FLOAT64 else proven.autocast
        stages = proven.stages(wide=True) if each == FLOAT64 else checked.take_stages()
        runtime = assembled(stages, Sgd(0.0), context)
        cast = widened if each == FLOAT64 else batches
        got = _validated(runtime, proven.schedule, cast)
        runtime.close()
        name = "validation" if each == FLOAT64 else f"validation in {each.name}"
        expected, bounds = _evaluated(proven.workload, reference, widened, got, each)
        comparison.add(name, got, expected, bounds, f"rank {proven.place.rank}")
    if comparison.failures and is_random(proven.workload, reference, widened[0][0]):
        comparison.failures.insert(0, RANDOM)
    about = checked.about | {
        "reference": "the untraced model in one process, in evaluation mode",
        "minibatches": len(batches),
        "timed arithmetic": arithmetic.name,
    }
    return Correctness(
        comparison.deviations, comparison.tolerances, tuple(comparison.failures), about
    )


def _validated(runtime: AnyRuntime, schedule: Schedule, batches: Sequence[Batch]) -> Tensors:
    """Losses and numbers of right answers on this rank; those that it should have and has not are
    missing from the comparison's other side."""
    got: Tensors = {}
    with NoRandomness():
        for done in runtime.validate(share_of(runtime, schedule, batches), len(batches)):
            if done.loss is not None:
                got[f"loss {done.minibatch}"] = done.loss.cpu()
            if done.correct is not None:
                got[f"correct {done.minibatch}"] = done.correct.cpu()
    is_last, replicas = schedule.layout.last in runtime.modules, schedule.layout.replicas[-1]
    share = range(runtime.replica, len(batches), replicas) if is_last else range(0)
    missing = [number for number in share if f"loss {number}" not in got]
    assert not missing, f"the last stage returned no loss for minibatches {missing}"
    return got


def _evaluated(
    workload: Workload,
    model: nn.Module,
    batches: Sequence[Batch],
    got: Tensors,
    arithmetic: Arithmetic,
) -> tuple[Tensors, dict[str, float]]:
    """What the model gives for the minibatches that this rank has, and how far rounding may move
    it. An answer counts as right or wrong only where rounding cannot turn it."""
    expected, bounds = Tensors(), {}
    for number, (inputs, labels) in enumerate(batches):
        if f"loss {number}" not in got:
            continue
        outputs = evaluated(workload, model, inputs)
        loss, moved = (
            float(_loss_of(workload, model, (inputs, labels), rounds))
            for rounds in (nullcontext(), EveryOperatorRounds(arithmetic, seed=number))
        )
        expected[f"loss {number}"] = torch.tensor(loss, dtype=torch.float64)
        bounds[f"loss {number}"] = arithmetic.factor * (
            abs(moved - loss) / arithmetic.moved + arithmetic.unit * abs(loss)
        )
        if f"correct {number}" in got:
            logits = outputs["logits"] if "logits" in outputs else next(iter(outputs.values()))
            within = evaluation_bounds(workload, model, inputs, outputs, arithmetic)
            best, bound = logits.topk(2, dim=1).values, max(within.values())
            expected[f"correct {number}"] = (logits.argmax(1) == labels).sum().cpu()
            bounds[f"correct {number}"] = float((best[:, 0] - best[:, 1] <= 2 * bound).sum())
    return expected, bounds


def _loss_of(
    workload: Workload, model: nn.Module, batch: Batch, rounds: AbstractContextManager[object]
) -> torch.Tensor:
    with torch.no_grad(), LoneForward(), rounds:
        return workload.loss_of(model.eval(), batch)
