"""The proof of a pipeline: short runs compared on every rank with the reference
(pipeline_reference.py).

    trace check     rank 0: the traced stages beside the model itself (trace_check.py)
    timed types     one run of one update: the gradients that reach the optimiser, and the losses
    float64         two runs under SGD: parameters, buffers and losses after each
    own update      where the workload has an optimiser or a scheduler: a run in float64, in which a
                    fresh one of the whole model takes the gradients that reach those of the stages

Two runs check the drain between them, and the stash right after it. Neither number of minibatches
is a multiple of anything. Ranks put aside what a run leaves in their stages, and give the stages
up; then rank 0 runs the reference, and sends each rank what it should hold (shared_reference.py).
The learning rate is SLOWER times smaller than the case's: rounding would grow from update to update
otherwise, and a long pipeline makes many.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice

import torch
import torch.distributed as dist
from torch import nn

from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.messages import Correctness
from pytest_dnnbench.rank.pipeline.sgd import Sgd
from pytest_dnnbench.rank.pipeline.stage_update import OwnRule
from pytest_dnnbench.rank.proof.arithmetic import FLOAT64, Arithmetic, widened_by_type
from pytest_dnnbench.rank.proof.comparison import Comparison
from pytest_dnnbench.rank.proof.distance import Tensors
from pytest_dnnbench.rank.proof.heap import give_back_memory
from pytest_dnnbench.rank.proof.pipeline_own_update import prove_own_update
from pytest_dnnbench.rank.proof.pipeline_reference import PipelineReference
from pytest_dnnbench.rank.proof.proven_pipeline import (
    Assembled,
    Checked,
    Proven,
    checked_trace,
    trained,
    update_size,
)
from pytest_dnnbench.rank.proof.shared_reference import Answer, SharedReference
from pytest_dnnbench.rank.proof.shelf import Shelf
from pytest_dnnbench.rank.proof.unprovable import RANDOM, UNCERTAIN, is_random
from pytest_dnnbench.rank.whole import whole
from pytest_dnnbench.rank.workloads.batches import wide
from pytest_dnnbench.rank.workloads.workload import Batch

SLOWER = 1024.0
"""At the case's learning rate, efficientnet_b0 on 16 images multiplies a difference by 5 in every
update. At a 1024th of it, updates hardly do."""


def prove_training(proven: Proven, assembled: Assembled) -> Correctness:
    """Trains on batch(0), batch(1), ... and compares what this rank's replica holds after each
    run."""
    comparison, checked = Comparison(), checked_trace(proven, training=True)
    arithmetic = checked.arithmetic
    _prove_timed_update(proven, assembled, checked, comparison)
    done = _prove_float64(proven, assembled, checked.owned, comparison)
    if isinstance(proven.rule, OwnRule):
        prove_own_update(proven, assembled, comparison)
    if comparison.failures and is_random(
        proven.workload, proven.model(wide=True), wide(proven.batch(0))[0]
    ):
        comparison.failures.insert(0, RANDOM)
    about = checked.about | {
        "reference": "the untraced model in one process, the update rule minibatch by minibatch",
        "minibatches": done,
        "runs": len(proven.proof_runs),
        "timed arithmetic": arithmetic.name,
    }
    return Correctness(
        comparison.deviations, comparison.tolerances, tuple(comparison.failures), about
    )


def agreed(compared: Callable[[bool], Comparison]) -> Comparison:
    """Compares with bounds that are measured on the very first minibatch, and only where a rank is
    beyond them, with those of a `thorough` reference: it has no others but wider ones, and passes
    every minibatch again. Called on all ranks."""
    comparison = compared(False)
    beyond: list[bool] = [False] * dist.get_world_size()
    dist.all_gather_object(beyond, bool(comparison.failures))
    if any(beyond):
        del comparison
        give_back_memory()
        comparison = compared(True)
    return comparison


@dataclasses.dataclass(frozen=True, slots=True)
class _Ran:
    """What this rank has of the runs of a pipeline: of which stages, as which replica of them; by
    run, the losses by the number of the minibatch."""

    owned: Sequence[Mapping[str, str]]
    stages: tuple[int, ...]
    replica: int
    losses: Sequence[Tensors]

    def shared(self, reference: PipelineReference | None, proven: Proven) -> SharedReference:
        """Rank 0's reference, as this rank asks it."""
        return SharedReference(reference, self.stages, self.replica, proven.device)


def _prove_timed_update(
    proven: Proven, assembled: Assembled, checked: Checked, comparison: Comparison
) -> None:
    """One run of one update per stage at least, in the types that are timed."""
    # Under SGD, as the reference: a stage may update before another has its first gradients.
    runtime = assembled(checked.take_stages(), proven.settings, proven.autocast)
    arrived: dict[int, Mapping[str, torch.Tensor]] = {}

    def keep(gradients: Mapping[int, Mapping[str, torch.Tensor]]) -> None:
        for stage, named in gradients.items():
            if stage not in arrived:
                arrived[stage] = _aside(named)

    runtime.observe_updates(keep)
    batches = [proven.batch(index) for index in range(update_size(proven.schedule))]
    losses = trained(runtime, proven.schedule, batches)
    ran = _Ran(checked.owned, tuple(runtime.modules), runtime.replica, [losses])
    runtime.close()
    del runtime
    give_back_memory()
    compared = partial(_compared_timed, proven, ran, arrived, batches, checked.arithmetic)
    comparison.take(agreed(compared))


def _compared_timed(
    proven: Proven,
    ran: _Ran,
    arrived: Mapping[int, Mapping[str, torch.Tensor]],
    batches: Sequence[Batch],
    arithmetic: Arithmetic,
    thorough: bool,
) -> Comparison:
    """The gradients that reached the optimiser and the losses, compared with the reference's."""
    comparison = Comparison()
    reference = _reference(
        proven, ran.owned, proven.settings, arithmetic, thorough, keeps_first=True
    )
    shared = ran.shared(reference, proven)
    expected, bounds = shared.run([wide(batch) for batch in batches])
    for stage, answer in shared.first_gradients().items():
        gradients = arrived.get(stage, {})
        comparison.add(
            f"gradients in {arithmetic.name}",
            gradients,
            answer.expected,
            widened_by_type(answer.bounds, gradients, answer.expected),
            f"stage {stage} in the timed run",
        )
    name, rank = f"loss in {arithmetic.name}", f"rank {proven.place.rank} in the timed run"
    losses = ran.losses[0]
    comparison.add(name, losses, _losses(expected, losses), _numbered(bounds), rank)
    return comparison


@dataclasses.dataclass(frozen=True, slots=True)
class _Left:
    """What a run left in a stage of this rank, put aside."""

    parameters: Shelf
    buffers: Tensors


def _aside(tensors: Mapping[str, torch.Tensor]) -> Shelf:
    shelf = Shelf()
    for name, tensor in tensors.items():
        shelf.put(name, tensor)
    return shelf


def _left(module: nn.Module) -> _Left:
    parameters = Shelf()
    for name, each in module.named_parameters():
        parameters.put(name, whole(each.detach()))
    return _Left(parameters, {name: each.clone() for name, each in module.named_buffers()})


def _prove_float64(
    proven: Proven,
    assembled: Assembled,
    owned: Sequence[Mapping[str, str]],
    comparison: Comparison,
) -> int:
    """The two runs in float64; the number of their minibatches."""
    rate = proven.settings.learning_rate / SLOWER
    optimiser = dataclasses.replace(proven.settings, learning_rate=rate)
    stages = [stage.train() for stage in proven.stages(wide=True)]
    runtime = assembled(stages, optimiser, nullcontext)
    del stages
    left, losses = list[dict[int, _Left]](), list[Tensors]()
    for batches in _runs(proven):
        losses.append(trained(runtime, proven.schedule, [wide(batch()) for batch in batches]))
        left.append({stage: _left(module) for stage, module in runtime.modules.items()})
    ran = _Ran(owned, tuple(runtime.modules), runtime.replica, losses)
    runtime.close()
    del runtime
    give_back_memory()
    comparison.take(agreed(partial(_compared_float64, proven, ran, left, optimiser)))
    return sum(proven.proof_runs)


def _compared_float64(
    proven: Proven,
    ran: _Ran,
    left: Sequence[Mapping[int, _Left]],
    optimiser: Sgd,
    thorough: bool,
) -> Comparison:
    """What the runs in float64 left, compared with the reference's. Raises WrongResult on rank 0
    where nothing can be proven of a stage."""
    comparison = Comparison()
    reference = _reference(proven, ran.owned, optimiser, FLOAT64, thorough)
    shared = ran.shared(reference, proven)
    for number, batches in enumerate(_runs(proven)):
        expected, bounds = shared.run([wide(batch()) for batch in batches])
        if reference is not None and reference.uncertain_stages:
            raise WrongResult(_why_uncertain(proven, reference.uncertain_stages))
        parameters, buffers, when = shared.parameters(), shared.buffers(), f"after run {number}"
        for stage, held in left[number].items():
            _compare(held, parameters[stage], buffers[stage], comparison, f"stage {stage} {when}")
        rank, losses = f"rank {proven.place.rank} {when}", ran.losses[number]
        comparison.add("loss", losses, _losses(expected, losses), _numbered(bounds), rank)
    return comparison


def _runs(proven: Proven) -> list[list[Callable[[], Batch]]]:
    """The minibatches of the runs in float64, each made when it is called for."""
    numbers = iter(range(sum(proven.proof_runs)))
    return [
        [partial(proven.batch, number) for number in islice(numbers, minibatches)]
        for minibatches in proven.proof_runs
    ]


def _reference(
    proven: Proven,
    owned: Sequence[Mapping[str, str]],
    optimiser: Sgd,
    arithmetic: Arithmetic,
    thorough: bool,
    *,
    keeps_first: bool = False,
) -> PipelineReference | None:
    """The reference, on rank 0."""
    if proven.place.rank != 0:
        return None
    return PipelineReference(
        proven.model(wide=True),
        owned,
        proven.schedule,
        optimiser,
        proven.workload.loss,
        arithmetic,
        thorough=thorough,
        keeps_first=keeps_first,
        clip_norm=proven.workload.clip_norm,
        forward=proven.workload.forward,
    )


def _why_uncertain(proven: Proven, stages: Sequence[int]) -> str:
    """Why nothing can be proven of some stages: a random model, or one that is ill-conditioned."""
    if is_random(proven.workload, proven.model(wide=True), wide(proven.batch(0))[0]):
        return RANDOM
    return f"stage {stages[0]}: {UNCERTAIN}"


def _compare(
    held: _Left, parameters: Answer, buffers: Answer, comparison: Comparison, when: str
) -> None:
    comparison.add("parameters", held.parameters, parameters.expected, parameters.bounds, when)
    # A constant that the trace made is no buffer of the model.
    of_model = {name: each for name, each in held.buffers.items() if name in buffers.expected}
    comparison.add("buffers", of_model, buffers.expected, buffers.bounds, when)


def _losses(expected: Sequence[float], got: Mapping[str, object]) -> Tensors:
    """Those of the reference's losses that this rank has as well."""
    return {name: torch.tensor(expected[int(name)], dtype=torch.float64) for name in got}


def _numbered(bounds: Sequence[float]) -> dict[str, float]:
    return {str(number): bound for number, bound in enumerate(bounds)}
