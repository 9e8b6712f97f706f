"""The proof of a data-parallel framework: a step in the types that are timed, and a few steps in
float64, compared with the reference (rank/reference.py) tensor by tensor.

    rank 0       timed step ─> step in float64, twice ─> | reference's step, bounds, compare | twice
    other ranks  timed step ─> step in float64, twice

Rank 0 puts aside what each step leaves (shelf.py), gives up the framework's model and follows with
the reference: no rank holds both at once. The other ranks send a fingerprint of what they hold,
which must be rank 0's. The timed step starts from the same weights and samples as the first step in
float64.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.messages import Correctness, Place, RunRequest
from pytest_dnnbench.rank import rounding
from pytest_dnnbench.rank.buffers import Buffers
from pytest_dnnbench.rank.comparison import Comparison
from pytest_dnnbench.rank.lone_forward import is_random, outputs_of
from pytest_dnnbench.rank.low_rank import LowRank
from pytest_dnnbench.rank.own_arithmetic import own_arithmetic
from pytest_dnnbench.rank.proof_conditions import ProofCopies, check_room
from pytest_dnnbench.rank.randomness import NoRandomness
from pytest_dnnbench.rank.reference import (
    Derivatives,
    Fingerprint,
    Reference,
    StepBounds,
    Tensors,
    digest,
    evaluated,
    evaluation_bounds,
)
from pytest_dnnbench.rank.rounding import UNCERTAIN, Arithmetic, is_certain, largest
from pytest_dnnbench.rank.shelf import Shelf
from pytest_dnnbench.rank.step_forms import (
    graphs_compiled,
    laid_out,
    without_randomness_compiled,
)
from pytest_dnnbench.rank.update_rule import UpdateRule, in_words, rates_of
from pytest_dnnbench.rank.whole import whole
from pytest_dnnbench.rank.workloads.batches import synthetic_batch, wide
from pytest_dnnbench.rank.workloads.image_models import weight_types
from pytest_dnnbench.rank.workloads.workload import Batch, Workload

PROOF_STEPS = 2
"""An error in the momentum, the buffers or the first update shows in the second step."""

CAPTURED_STEPS = 3
"""Of a step that is captured (step_graph.py): one as it is written, one captured, one replayed."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """How far an exchange that rounds on purpose may move averaged gradients: by `relative` times
    the larger of `floor` and the largest element of the tensor."""

    relative: float
    floor: float


CANCELLATION = 4
"""How much larger the ranks' gradients may be than their mean: the former are rounded, the error is
relative to the latter."""

FP16_SMALLEST = 2.0**-24
"""Gradients below this vanish in fp16, whatever the size of their tensor."""


def exchange_in(kind: torch.dtype, ranks: int) -> Rounding:
    """The rounding of an exchange in fp16 or bf16. Of each element: this rank's gradient, the
    partial sums with each other rank's, the mean."""
    # Half the distance between neighbouring numbers, relative to them.
    rounding = torch.finfo(kind).eps / 2
    smallest = FP16_SMALLEST if kind == torch.float16 else torch.finfo(kind).tiny
    return Rounding(CANCELLATION * (ranks + 1) * rounding, floor=smallest / rounding)


class ProvenWorker(Protocol):
    """What the proof needs of a worker. `model` wraps `module` as in training, and `rule` updates
    it; `local` is the module as a rank runs it by itself, compiled where the case says so."""

    place: Place
    case: Case
    request: RunRequest
    device: torch.device
    module: nn.Module
    local: nn.Module
    model: nn.Module
    rule: UpdateRule
    passes: int
    rounding: Rounding | None
    shares_buffers: bool
    exchanges_zeros: bool
    synchronised: bool
    computes_in: Sequence[torch.dtype]

    @property
    def shards(self) -> int:
        """Parts of a step's samples."""

    @property
    def shard(self) -> int:
        """This rank's part."""

    @property
    def workload(self) -> Workload:
        """What is trained."""

    @property
    def proof_copies(self) -> ProofCopies:
        """Copies of the weights without which the proof cannot be."""

    def build(self) -> None:
        """Makes module, model and optimiser as they are timed."""

    def build_wide(self) -> None:
        """Makes them in double precision, in place of the former ones."""

    def give_up(self) -> None:
        """Gives up what was built, and its memory."""

    def fresh_module(self, rank: int, wide: bool = False) -> nn.Module:
        """The case's model with the first weights of a rank."""

    def computing(self) -> torch.autocast:
        """The context of a forward pass of the model as it is built."""

    def prepare(self, minibatches: Sequence[Batch]) -> None:
        """What comes before the first step of the framework."""

    def approximation(self) -> LowRank | None:
        """The approximation of its exchange, written out, as it is before the first step."""

    def rehearse(self, minibatches: Sequence[Batch]) -> None:
        """Runs what goes before a step as it is timed; weights and buffers stay."""

    def train_step(self, minibatches: Sequence[Batch]) -> torch.Tensor:
        """One step of the framework."""

    def evaluate(self, batch: Batch) -> Any:
        """The model's output, without gradients, as a step of validation computes it."""


def prove_training(worker: ProvenWorker) -> Correctness:
    """A step in the timed types, then PROOF_STEPS steps in float64; compares gradients, parameters,
    buffers and losses with those of the reference on the same global batch."""
    arithmetic = _arithmetic(worker, proof_batch(worker, 0, 0))
    ran = _Ran(worker, arithmetic)
    worker.give_up()
    about = ran.about | {
        "dtype": "float64",
        "steps": len(ran.steps),
        "digest": " ".join(ran.fingerprints),
    }
    if worker.place.rank != 0:
        return Correctness({}, {}, (), about)
    proof = _TrainingProof(worker, arithmetic, ran.approximation)
    for index, step in enumerate(ran.steps):
        proof.follow(index, step, ran.timed if index == 0 else None)
        step.clear()
        ran.timed.clear()
    proof.explain_failures()
    done = proof.comparison
    return Correctness(done.deviations, done.tolerances, tuple(done.failures), about)


@dataclass(slots=True)
class _Step:
    """What a step left on this rank, put aside; rank 0 keeps it. Of a step in the timed types the
    gradients only, its loss, and what its exchange started from where that approximates."""

    gradients: Mapping[str, torch.Tensor]
    parameters: Mapping[str, torch.Tensor]
    buffers: Tensors
    rates: Tensors
    loss: torch.Tensor | None = None
    approximation: LowRank | None = None

    def clear(self) -> None:
        """Gives up the tensors."""
        self.gradients, self.parameters, self.buffers = {}, {}, {}


class _Ran:
    """The framework's part: its steps, and what each left. Called on all ranks."""

    def __init__(self, worker: ProvenWorker, arithmetic: Arithmetic) -> None:
        self.worker = worker
        self.fingerprints: list[str] = []
        self.timed = self._timed_step()
        self.about = _about(worker, arithmetic)
        self.approximation: LowRank | None = None
        self.steps: list[_Step] = []
        worker.build_wide()
        worker.model.train()
        steps = CAPTURED_STEPS if worker.case.form.cuda_graph else PROOF_STEPS
        for index in range(steps):
            self.steps.append(self._step(index))
        self.about["reference"] = f"the model in one process, {self._exchange_in_words()}, " + (
            in_words(worker.workload, worker.rule.optimiser)
        )

    def _timed_step(self) -> _Step:
        """One step as it is timed, on the samples of the first step in float64."""
        worker = self.worker
        worker.build()
        worker.model.train()
        own = _own(worker, _shards(worker, 0))  # drawn before random numbers are switched off
        with randomness_off(worker, own[0]):
            worker.rehearse(own)
            loss = worker.train_step(own)
        return _Step(self._gradients(), {}, {}, {}, loss, worker.approximation())

    def _step(self, index: int) -> _Step:
        """A step in float64."""
        worker = self.worker
        own = _own(worker, [wide(batch) for batch in _shards(worker, index)])
        with NoRandomness():
            worker.prepare(own)
        if index == 0:
            self.approximation = worker.approximation()
        worker.module.zero_grad(set_to_none=True)
        with NoRandomness():
            worker.train_step(own)
        parameters = self._aside(dict(worker.module.named_parameters()))
        buffers = {name: each.detach().clone() for name, each in worker.module.named_buffers()}
        rates = rates_of(worker.rule.optimiser, worker.rule.scheduler)
        return _Step(self._gradients(), parameters, buffers, rates)

    def _gradients(self) -> Shelf:
        return self._aside(
            {
                name: parameter.grad
                for name, parameter in self.worker.module.named_parameters()
                if parameter.grad is not None
            }
        )

    def _aside(self, tensors: Mapping[str, torch.Tensor]) -> Shelf:
        """Takes the fingerprint of tensors, and puts them aside on rank 0. Ranks gather them one by
        one, where they hold parts."""
        shelf, fingerprint = Shelf(), Fingerprint()
        for name in sorted(tensors):
            gathered = whole(tensors[name].detach())
            fingerprint.add(name, gathered)
            if self.worker.place.rank == 0:
                shelf.put(name, gathered)
        self.fingerprints.append(fingerprint.hexdigest())
        return shelf

    def _exchange_in_words(self) -> str:
        batch = "the shards together" if self.worker.synchronised else "the shards one by one"
        approximated = ", by PowerSGD written out" if self.approximation else ""
        return f"{batch}, the mean of their gradients{approximated}"


class _TrainingProof:
    """Rank 0's part: the reference, and the comparison of every step with it."""

    def __init__(
        self, worker: ProvenWorker, arithmetic: Arithmetic, approximation: LowRank | None
    ) -> None:
        self.worker = worker
        self.arithmetic = arithmetic
        self.comparison = Comparison()
        self.reference = Reference(
            worker.workload,
            worker.fresh_module(0, wide=True),
            worker.request,
            shares_buffers=worker.shares_buffers,
            exchanges_zeros=worker.exchanges_zeros,
            synchronised=worker.synchronised,
            approximation=approximation,
        )

    def follow(self, index: int, step: _Step, timed: _Step | None) -> None:
        """Runs the reference's step, and compares what the framework's left, and the timed step
        beside the first."""
        shards = [wide(batch) for batch in _shards(self.worker, index)]
        expected, bounds = self._expect(shards, timed)
        self._compare(index, expected, bounds, step)

    def _expect(self, shards: list[Batch], timed: _Step | None) -> tuple[Derivatives, StepBounds]:
        """The derivatives of a step and how far they may be missed."""
        passes = self.worker.passes
        expected = self.reference.differentiate(shards, passes)
        if timed is not None:
            start, exact = timed.approximation, expected
            if start is not None:
                exact = self.reference.differentiate(shards, passes, start)
            bounds = self.reference.bounds(shards, passes, exact, self.arithmetic, start)
            self._compare_timed(timed, exact, bounds)
            del exact
        bounds = self.reference.bounds(shards, passes, expected)
        if timed is not None and not is_certain(bounds.gradients, expected.gradients):
            raise WrongResult(
                RANDOM
                if is_random(self.worker.workload, self.reference.model, shards[0][0])
                else UNCERTAIN
            )
        return expected, bounds

    def _compare_timed(self, timed: _Step, expected: Derivatives, bounds: StepBounds) -> None:
        name, passes = self.arithmetic.name, self.worker.passes
        when = "the timed step"
        assert timed.loss is not None, "of a timed step the loss is kept"
        losses = [str(number) for number in range(passes)]
        mean = torch.stack([expected.losses[each] for each in losses]).mean()
        bound = max(bounds.losses[each] for each in losses)
        self.comparison.add(
            f"loss in {name}", {"loss": timed.loss}, {"loss": mean}, {"loss": bound}, when
        )
        self.comparison.add(
            f"gradients in {name}",
            timed.gradients,
            expected.gradients,
            rounding.widened_by_type(
                self._of_exchange(bounds.gradients, expected.gradients),
                timed.gradients,
                expected.gradients,
            ),
            when,
        )

    def _compare(self, index: int, expected: Derivatives, bounds: StepBounds, step: _Step) -> None:
        """Compares what the framework's step left with what was expected."""
        reference, when = self.reference, f"step {index}"
        allowed = self._of_exchange(bounds.gradients, expected.gradients)
        self.comparison.add("gradients", step.gradients, expected.gradients, allowed, when)
        reference.update(self._taken(expected, step), expected.buffers, expected.approximation)
        if expected_rates := reference.rule.rates():
            bounds_of_rates = {name: RATES * largest(each) for name, each in expected_rates.items()}
            self.comparison.add(
                "optimiser settings", step.rates, expected_rates, bounds_of_rates, when
            )
        self.comparison.add(
            "parameters", step.parameters, reference.parameters, reference.parameter_bounds(), when
        )
        self.comparison.add("buffers", step.buffers, expected.buffers[0], bounds.buffers, when)

    def _taken(self, expected: Derivatives, step: _Step) -> Mapping[str, torch.Tensor]:
        """The gradients that the reference updates by: its own, which it gives up. Where the
        exchange rounds, or the optimiser is the user's own (update_rule.py), those that arrived:
        then rounding of them explains no difference of the parameters."""
        own, expected.gradients = expected.gradients, {}
        if self.reference.rule.by_arrived:
            return step.gradients
        if self.worker.rounding:
            own.clear()
            return {name: gradient.clone() for name, gradient in step.gradients.items()}
        return own

    def _of_exchange(self, bounds: Mapping[str, float], expected: Tensors) -> dict[str, float]:
        """The bounds of gradients, wider where the exchange rounds on purpose."""
        extra = self.worker.rounding
        if extra is None:
            return dict(bounds)
        # Clipping divides by the norm of the rounded gradients, which is off by as much again.
        relative = extra.relative * (1 if self.worker.workload.clip_norm is None else 2)
        return {
            name: bound + relative * max(extra.floor, largest(expected[name]))
            for name, bound in bounds.items()
        }

    def explain_failures(self) -> None:
        """Adds, to a failed comparison, that the model is random, where it is."""
        inputs, _ = wide(proof_batch(self.worker, 0, 0))
        if self.comparison.failures and is_random(
            self.worker.workload, self.reference.model, inputs
        ):
            self.comparison.failures.insert(0, RANDOM)


RATES = 2.0**-50
"""A learning rate that is computed in another order may differ by so much of itself."""

RANDOM = (
    "the model is random: two passes over the same inputs differ, with torch's random numbers"
    " replaced by their means; draw random numbers with torch only, so that the proof can switch"
    " them off"
)


def prove_validation(worker: ProvenWorker) -> Correctness:
    """Compares the outputs in evaluation mode with those of a plain module with rank 0's weights:
    in the timed types and in float64."""
    batch, workload = proof_batch(worker, 0, 0), worker.workload
    arithmetic = _arithmetic(worker, batch)
    worker.build()
    timed = _evaluated(worker, batch)
    about = _about(worker, arithmetic)
    worker.build_wide()
    inputs, targets = wide(batch)
    got = _evaluated(worker, (inputs, targets))
    worker.give_up()
    reference = worker.fresh_module(0, wide=True)
    expected = evaluated(workload, reference, inputs)
    comparison, when = Comparison(), f"rank {worker.place.rank}"
    for kind, outputs, each in (
        (f"{workload.output_name} in {arithmetic.name}", timed, arithmetic),
        (workload.output_name, got, rounding.FLOAT64),
    ):
        bounds = evaluation_bounds(workload, reference, inputs, expected, each)
        comparison.add(kind, outputs, expected, bounds, when)
    if comparison.failures and is_random(workload, reference.eval(), inputs):
        comparison.failures.insert(0, RANDOM)
    return Correctness(
        comparison.deviations,
        comparison.tolerances,
        tuple(comparison.failures),
        {
            "reference": "a plain module with rank 0's weights, in evaluation mode",
            "dtype": "float64",
            **about,
            "digest": f"{digest(timed)} {digest(got)}",
        },
    )


def _evaluated(worker: ProvenWorker, batch: Batch) -> Tensors:
    worker.module.eval()
    batch = laid_out(batch, worker.case.form)
    with torch.no_grad(), randomness_off(worker, batch):
        return outputs_of(worker.workload, worker.evaluate(batch))


def randomness_off(worker: ProvenWorker, batch: Batch) -> AbstractContextManager[object]:
    """The context in which this worker's step draws no random numbers."""
    if worker.local is worker.module:
        return NoRandomness()

    def passes() -> None:
        held = Buffers(worker.module)
        with held.borrowed(held.copies()), torch.no_grad(), worker.computing():
            worker.workload.forward(worker.module, batch[0])

    return without_randomness_compiled(worker.module, passes)


def _arithmetic(worker: ProvenWorker, batch: Batch) -> Arithmetic:
    """The arithmetic of the user's own model as it is timed, and of the types that the framework
    casts to; called before anything is built."""
    model = worker.fresh_module(0).train(worker.case.phase == "train")
    check_room(worker.request.model, model, worker.place, worker.proof_copies)
    own = own_arithmetic(worker.workload, model, batch, worker.case.precision, worker.computing)
    cast = rounding.coarsest(worker.computes_in)
    return max(own, cast, key=lambda arithmetic: arithmetic.unit)


def _about(worker: ProvenWorker, arithmetic: Arithmetic) -> dict[str, Scalar]:
    """How the step is checked; called while the worker is built as it is timed."""
    form = worker.case.form
    about: dict[str, Scalar] = {
        "batch_size": proof_size(worker),
        "timed arithmetic": arithmetic.name,
        "weights": weight_types(worker.module),
    }
    if form.changed:
        about["form"] = form.label
    if form.cuda_graph:
        about["captured"] = f"the step in {arithmetic.name}, and all but the first in float64"
    if form.compile:
        about["compiled"] = f"the step in {arithmetic.name}; float64 runs as the model is written"
        about["compiled graphs"] = graphs_compiled()
        if not about["compiled graphs"]:
            raise WrongResult(
                "torch.compile compiled nothing of the model, so a step of it would be timed as it"
                " is written: look for torch.compiler.disable in the model, and for"
                " TORCHDYNAMO_DISABLE in the environment"
            )
    return about


def proof_size(worker: ProvenWorker) -> int:
    """Samples in a minibatch of the proof, also of a case of fewer: batch normalisation over two
    values is so steep that rounding may turn its outputs around."""
    return worker.workload.proof_size


def _shards(worker: ProvenWorker, index: int) -> list[Batch]:
    """The minibatches of a step, `passes` for each shard, shard by shard."""
    shards = worker.shards * worker.passes
    return [proof_batch(worker, shard, index) for shard in range(shards)]


def _own(worker: ProvenWorker, shards: list[Batch]) -> list[Batch]:
    """This rank's minibatches, in the form of the case; the reference takes them plain."""
    own = shards[worker.shard * worker.passes :][: worker.passes]
    return [laid_out(batch, worker.case.form) for batch in own]


def proof_batch(worker: ProvenWorker, shard: int, index: int) -> Batch:
    """A minibatch in the types of the workload."""
    return synthetic_batch(
        worker.workload,
        shard,
        index,
        worker.device,
        size=proof_size(worker),
        seed=worker.case.seed,
        proof=True,
    )
