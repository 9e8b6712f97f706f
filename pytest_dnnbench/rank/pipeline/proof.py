"""The proof of a pipeline: short runs compared with the reference (reference.py) on every rank.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from typing import Protocol

import torch
from torch import nn

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.messages import Correctness, Place, RunRequest
from pytest_dnnbench.planner.schedule import Schedule
from pytest_dnnbench.rank.comparison import Comparison
from pytest_dnnbench.rank.heap import give_back_memory
from pytest_dnnbench.rank.lone_forward import LoneForward, is_random
from pytest_dnnbench.rank.own_arithmetic import own_arithmetic
from pytest_dnnbench.rank.pipeline.reference import Named, PipelineReference
from pytest_dnnbench.rank.pipeline.runtime import Completed, UpdateObserver
from pytest_dnnbench.rank.pipeline.sgd import Sgd
from pytest_dnnbench.rank.pipeline.shared_reference import Answer, SharedReference
from pytest_dnnbench.rank.pipeline.stage_update import OwnRule
from pytest_dnnbench.rank.pipeline.trace_check import check_trace
from pytest_dnnbench.rank.proof_conditions import ProofCopies, check_room
from pytest_dnnbench.rank.randomness import NoRandomness
from pytest_dnnbench.rank.reference import evaluated, evaluation_bounds
from pytest_dnnbench.rank.rounding import (
    FLOAT64,
    UNCERTAIN,
    Arithmetic,
    EveryOperatorRounds,
    widened_by_type,
)
from pytest_dnnbench.rank.shelf import Shelf
from pytest_dnnbench.rank.update_rule import OwnOptimiser
from pytest_dnnbench.rank.whole import whole
from pytest_dnnbench.rank.workloads.batches import wide
from pytest_dnnbench.rank.workloads.image_models import weight_types
from pytest_dnnbench.rank.workloads.workload import Workload
from pytest_dnnbench.step_form import StepForm

SLOWER = 1024.0
"""At the case's learning rate, efficientnet_b0 on 16 images multiplies a difference by 5 in every
update. At a 1024th of it, updates hardly do."""

Batch = tuple[torch.Tensor, torch.Tensor]
Batches = Iterator[Batch]


class AnyRuntime(Protocol):
    """The runtime that a proof runs: ours, or that of torch's schedules."""

    device: torch.device

    @property
    def replica(self) -> int:
        """Which replica of its stages this rank is."""

    @property
    def modules(self) -> Mapping[int, nn.Module]:
        """The stages of this rank, by number."""

    def observe_updates(self, observer: UpdateObserver) -> None:
        """Lets `observer` see the gradients of each update, just before."""

    def train(self, batches: Batches, minibatches: int) -> Iterator[Completed]:
        """As Runtime.train."""

    def validate(self, batches: Batches, minibatches: int) -> Iterator[Completed]:
        """As Runtime.validate."""

    def close(self) -> None:
        """Ends this rank's transfers."""


Assembled = Callable[
    [Sequence[nn.Module], Sgd | OwnRule, Callable[[], AbstractContextManager[object]]], AnyRuntime
]
"""(all stages, optimiser, the context of a forward pass) -> this rank's runtime."""


class Proven(Protocol):
    """What the proof needs of a case: its model, stages and minibatches."""

    place: Place
    request: RunRequest
    device: torch.device
    schedule: Schedule

    @property
    def proof_copies(self) -> ProofCopies:
        """Copies of the weights without which the proof cannot be."""

    def model(self, wide: bool = False) -> nn.Module:
        """The user's model with the weights that all ranks start from, on the rank's device, in its
        own types or in double precision."""

    def stages(self, wide: bool = False) -> list[nn.Module]:
        """The stages that the same model is traced and cut into."""

    def batch(self, index: int) -> Batch:
        """Minibatch `index` in its own types, on the rank's device."""

    @property
    def workload(self) -> Workload:
        """What is trained: of one tensor, with one tensor of targets."""

    @property
    def settings(self) -> Sgd:
        """The session's settings of SGD."""

    @property
    def rule(self) -> Sgd | OwnRule:
        """How the case's stages are updated."""

    @property
    def precision(self) -> str:
        """The case's."""

    @property
    def form(self) -> StepForm:
        """The case's."""

    @property
    def predicted_step_s(self) -> float:
        """The time of a minibatch that the plan predicts."""

    @property
    def proof_runs(self) -> tuple[int, int]:
        """Minibatches of the two runs in float64."""

    @property
    def proof_validation(self) -> int:
        """Minibatches of the validation."""

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass in the case's precision."""


def proof_runs(schedule: Schedule) -> tuple[int, int]:
    """Minibatches of the two runs: enough to pass the warm-up of the first stage, and to end in an
    incomplete update."""
    size = _update_size(schedule)
    return 2 * max(size, schedule.layout.world_size) + 1, size + 1


def _update_size(schedule: Schedule) -> int:
    return max(schedule.update_size(stage) for stage in range(len(schedule.layout.replicas)))


def prove_training(proven: Proven, assembled: Assembled) -> Correctness:
    """Trains on batch(0), batch(1), ... and compares what this rank's replica holds after each
    run."""
    comparison, about = Comparison(), _about(proven)
    arithmetic = _checked_trace(proven, about, training=True)
    _prove_timed_update(proven, assembled, arithmetic, comparison)
    done = _prove_float64(proven, assembled, comparison)
    if isinstance(proven.rule, OwnRule):
        _prove_own_update(proven, assembled, comparison)
    if comparison.failures and is_random(
        proven.workload, proven.model(wide=True), wide(proven.batch(0))[0]
    ):
        comparison.failures.insert(0, RANDOM)
    about |= {
        "reference": "the untraced model in one process, the update rule minibatch by minibatch",
        "minibatches": done,
        "runs": len(proven.proof_runs),
        "timed arithmetic": arithmetic.name,
    }
    return Correctness(
        comparison.deviations, comparison.tolerances, tuple(comparison.failures), about
    )


RANDOM = (
    "the model is random: two passes over the same inputs differ, with torch's random numbers"
    " replaced by their means; draw random numbers with torch only, so that the proof can switch"
    " them off"
)


def _about(proven: Proven) -> dict[str, Scalar]:
    about: dict[str, Scalar] = {"dtype": "float64", "weights": weight_types(proven.model())}
    about["rows of a minibatch"] = len(proven.batch(0)[0])
    if proven.form.changed:
        about["form"] = proven.form.label
    return about


def _checked_trace(proven: Proven, about: dict[str, Scalar], *, training: bool) -> Arithmetic:
    """The arithmetic of the model as it is timed; on rank 0, after the check of its trace."""
    model = proven.model().train(training)
    check_room(proven.request.model, model, proven.place, proven.proof_copies)
    inputs, _ = batch = proven.batch(0)
    arithmetic = own_arithmetic(proven.workload, model, batch, proven.precision, proven.autocast)
    if proven.place.rank == 0:
        stages = [stage.to(proven.device).train(training) for stage in proven.stages()]
        ratio = check_trace(
            model, stages, inputs, proven.precision, proven.autocast, proven.predicted_step_s
        )
        about["untraced forward over traced"] = round(ratio, 2)
    return arithmetic


def _prove_timed_update(
    proven: Proven, assembled: Assembled, arithmetic: Arithmetic, comparison: Comparison
) -> None:
    """One run of one update per stage at least, in the types that are timed."""
    stages = proven.stages()
    owned = _owned(proven.model(), stages)
    # Under SGD, as the reference: a stage may update before another has its first gradients.
    runtime = assembled(stages, proven.settings, proven.autocast)
    del stages
    arrived: dict[int, Shelf] = {}

    def keep(gradients: Mapping[int, Mapping[str, torch.Tensor]]) -> None:
        for stage, named in gradients.items():
            if stage not in arrived:
                arrived[stage] = _aside(named)

    runtime.observe_updates(keep)
    batches = [proven.batch(index) for index in range(_update_size(proven.schedule))]
    losses = _trained(runtime, proven.schedule, batches)
    own_stages, replica = tuple(runtime.modules), runtime.replica
    runtime.close()
    del runtime
    give_back_memory()
    shared = SharedReference(
        _reference(proven, owned, proven.settings, arithmetic, keeps_first=True),
        own_stages,
        replica,
        proven.device,
    )
    expected, bounds = shared.run([wide(batch) for batch in batches])
    for stage, answer in shared.first_gradients().items():
        gradients: Mapping[str, torch.Tensor] = arrived.get(stage, {})
        comparison.add(
            f"gradients in {arithmetic.name}",
            gradients,
            answer.expected,
            widened_by_type(answer.bounds, gradients, answer.expected),
            f"stage {stage} in the timed run",
        )
    name, rank = f"loss in {arithmetic.name}", f"rank {proven.place.rank} in the timed run"
    comparison.add(name, losses, _losses(expected, losses), _numbered(bounds), rank)


@dataclasses.dataclass(frozen=True, slots=True)
class _Left:
    """What a run left in a stage of this rank, put aside."""

    parameters: Shelf
    buffers: Named


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


def _prove_float64(proven: Proven, assembled: Assembled, comparison: Comparison) -> int:
    """The two runs in float64; the number of their minibatches."""
    rate = proven.settings.learning_rate / SLOWER
    optimiser = dataclasses.replace(proven.settings, learning_rate=rate)
    stages = [stage.train() for stage in proven.stages(wide=True)]
    owned = _owned(proven.model(), stages)
    runtime = assembled(stages, optimiser, nullcontext)
    del stages
    runs, left, losses = _runs(proven), list[dict[int, _Left]](), list[Named]()
    for batches in runs:
        losses.append(_trained(runtime, proven.schedule, [wide(batch()) for batch in batches]))
        left.append({stage: _left(module) for stage, module in runtime.modules.items()})
    own_stages, replica = tuple(runtime.modules), runtime.replica
    runtime.close()
    del runtime
    give_back_memory()
    reference = _reference(proven, owned, optimiser, FLOAT64)
    shared = SharedReference(reference, own_stages, replica, proven.device)
    for number, batches in enumerate(runs):
        expected, bounds = shared.run([wide(batch()) for batch in batches])
        if reference is not None and reference.uncertain_stages:
            raise WrongResult(_why_uncertain(proven, reference.uncertain_stages))
        parameters, buffers, when = shared.parameters(), shared.buffers(), f"after run {number}"
        for stage, held in left[number].items():
            _compare(held, parameters[stage], buffers[stage], comparison, f"stage {stage} {when}")
        rank = f"rank {proven.place.rank} {when}"
        wanted = _losses(expected, losses[number])
        comparison.add("loss", losses[number], wanted, _numbered(bounds), rank)
        left[number].clear()
    return sum(proven.proof_runs)


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
        keeps_first=keeps_first,
        clip_norm=proven.workload.clip_norm,
    )


def _why_uncertain(proven: Proven, stages: Sequence[int]) -> str:
    """Why nothing can be proven of some stages: a random model, or one that is ill-conditioned."""
    if is_random(proven.workload, proven.model(wide=True), wide(proven.batch(0))[0]):
        return RANDOM
    return f"stage {stages[0]}: {UNCERTAIN}"


def _prove_own_update(proven: Proven, assembled: Assembled, comparison: Comparison) -> None:
    """The workload's optimiser of each stage beside a fresh one of the whole model, which takes the
    gradients that arrive on this rank, update by update. An optimiser that is not local to a weight
    fails here."""
    stages = [stage.train() for stage in proven.stages(wide=True)]
    model = proven.model(wide=True)
    held = dict(model.named_parameters(remove_duplicate=False))
    first_names = {id(parameter): name for name, parameter in model.named_parameters()}
    owned = [
        # A tied weight goes by its first name: the optimiser knows it once.
        {mine: first_names[id(held[name])] for mine, name in names.items() if name in held}
        for names in _owned(model, stages)
    ]
    runtime = assembled(stages, proven.rule, nullcontext)
    reference = OwnOptimiser(proven.workload, model, proven.settings)

    def follow(gradients: Mapping[int, Mapping[str, torch.Tensor]]) -> None:
        arrived = {
            owned[stage][name]: each.clone()
            for stage, named in gradients.items()
            for name, each in named.items()
        }
        reference.update(model, arrived, {})

    runtime.observe_updates(follow)
    minibatches = proven.proof_runs[0]
    _trained(runtime, proven.schedule, [wide(proven.batch(i)) for i in range(minibatches)])
    bounds = reference.bounds()
    for stage, module in runtime.modules.items():
        parameters = {name: whole(each.detach()) for name, each in module.named_parameters()}
        expected = {name: held[owned[stage][name]].detach() for name in parameters}
        within = {name: bounds.get(owned[stage][name], 0.0) for name in parameters}
        when = f"stage {stage} after the optimiser's own updates"
        comparison.add("updates", parameters, expected, within, when)
    runtime.close()


def _compare(
    held: _Left, parameters: Answer, buffers: Answer, comparison: Comparison, when: str
) -> None:
    comparison.add("parameters", held.parameters, parameters.expected, parameters.bounds, when)
    # A constant that the trace made is no buffer of the model.
    of_model = {name: each for name, each in held.buffers.items() if name in buffers.expected}
    comparison.add("buffers", of_model, buffers.expected, buffers.bounds, when)


def _owned(model: nn.Module, stages: Sequence[nn.Module]) -> list[dict[str, str]]:
    """What each stage holds of the model: a stage has the model's own names."""
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    names |= {name for name, _ in model.named_buffers(remove_duplicate=False)}
    return [
        {
            name: name
            for name, _ in (*stage.named_parameters(), *stage.named_buffers())
            if name in names
        }
        for stage in stages
    ]


def _share(runtime: AnyRuntime, schedule: Schedule, batches: Sequence[Batch]) -> Batches:
    """The batches of this rank's replica, on its device, in case it feeds them in."""
    device = runtime.device
    return (
        (images.to(device), labels.to(device))
        for images, labels in batches[runtime.replica :: schedule.layout.replicas[0]]
    )


def _trained(runtime: AnyRuntime, schedule: Schedule, batches: Sequence[Batch]) -> Named:
    """The losses of a run on this rank, by the number of the minibatch."""
    with NoRandomness():
        completed = list(runtime.train(_share(runtime, schedule, batches), len(batches)))
    return {str(done.minibatch): done.loss.cpu() for done in completed if done.loss is not None}


def _losses(expected: Sequence[float], got: Mapping[str, object]) -> Named:
    """Those of the reference's losses that this rank has as well."""
    return {name: torch.tensor(expected[int(name)], dtype=torch.float64) for name in got}


def _numbered(bounds: Sequence[float]) -> dict[str, float]:
    return {str(number): bound for number, bound in enumerate(bounds)}


def prove_validation(proven: Proven, assembled: Assembled) -> Correctness:
    """Validates a few batches in the types that are timed and in float64, and compares each loss
    and number of right answers with those of the model itself."""
    comparison, about = Comparison(), _about(proven)
    arithmetic = _checked_trace(proven, about, training=False)
    batches = [proven.batch(index) for index in range(proven.proof_validation)]
    reference = proven.model(wide=True).eval()
    widened = [wide(batch) for batch in batches]
    for each in (arithmetic, FLOAT64):
        context = nullcontext if each == FLOAT64 else proven.autocast
        runtime = assembled(proven.stages(each == FLOAT64), Sgd(0.0), context)
        cast = widened if each == FLOAT64 else batches
        got = _validated(runtime, proven.schedule, cast)
        runtime.close()
        name = "validation" if each == FLOAT64 else f"validation in {each.name}"
        expected, bounds = _evaluated(proven.workload, reference, widened, got, each)
        comparison.add(name, got, expected, bounds, f"rank {proven.place.rank}")
    if comparison.failures and is_random(proven.workload, reference, widened[0][0]):
        comparison.failures.insert(0, RANDOM)
    about |= {
        "reference": "the untraced model in one process, in evaluation mode",
        "minibatches": len(batches),
        "timed arithmetic": arithmetic.name,
    }
    return Correctness(
        comparison.deviations, comparison.tolerances, tuple(comparison.failures), about
    )


def _validated(runtime: AnyRuntime, schedule: Schedule, batches: Sequence[Batch]) -> Named:
    """Losses and numbers of right answers on this rank; those that it should have and has not are
    missing from the comparison's other side."""
    got: Named = {}
    with NoRandomness():
        for done in runtime.validate(_share(runtime, schedule, batches), len(batches)):
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
    got: Named,
    arithmetic: Arithmetic,
) -> tuple[Named, dict[str, float]]:
    """What the model gives for the minibatches that this rank has, and how far rounding may move
    it. An answer counts as right or wrong only where rounding cannot turn it."""
    expected, bounds = Named(), {}
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
