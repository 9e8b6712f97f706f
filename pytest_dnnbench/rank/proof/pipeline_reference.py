"""The reference of a pipeline: what it computes, in one process and in plain order.

Minibatch t of a run passes the user's own model, whole and untraced: what a trace loses is missing
in the stages only. The weights of each stage have the version that the rule names (written out here
once more, apart from the schedule). A stage keeps its gradient, and steps when it has the gradients
of one update. Nothing runs ahead, nothing is in flight. Rules, with R replicas
and w warm-up forwards of a stage, m microbatches per update, and versions counted from 0 at the
start of the run:

    pipedream         version max(t div R - w, 0), R minibatches per update; with n stages and
                      R = 1 that is
                      w_s(t+1) = w_s(t) - lr * d/dw_s f_t(w_0(t-n+1), w_1(t-n+2), ..., w_{n-1}(t))
    vertical sync     the newest version made of no minibatch later than those in the version of
                      the first stage
    pipedream-2bw     version max(t div m - 1, 0), m minibatches per update
    pipedream-flush   version t div m, m minibatches per update: gradient accumulation

Sources: those of planner/schedule.py. Weight decay and momentum act on the newest weights.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import nn

from pytest_dnnbench.planner.schedule import Schedule
from pytest_dnnbench.rank.buffers import Buffers
from pytest_dnnbench.rank.pipeline.sgd import Sgd
from pytest_dnnbench.rank.pipeline.stage import Loss
from pytest_dnnbench.rank.profiling.example_input import Forward
from pytest_dnnbench.rank.proof.arithmetic import Arithmetic
from pytest_dnnbench.rank.proof.distance import Errors, Tensors, furthest, largest
from pytest_dnnbench.rank.proof.drift import Drift
from pytest_dnnbench.rank.proof.float64_convolutions import Float64Convolutions
from pytest_dnnbench.rank.proof.lone_forward import LoneForward, check_gradient
from pytest_dnnbench.rank.proof.rounding import EveryOperatorRounds, distances, moved_weights
from pytest_dnnbench.rank.proof.stage_state import StageState
from pytest_dnnbench.rank.proof.unprovable import is_certain
from pytest_dnnbench.rank.proof.weight_versions import weights_met
from pytest_dnnbench.rank.update_rule import CLIP_EPSILON
from pytest_dnnbench.rank.workloads.workload import Batch, called


class Measured(IntEnum):
    """Of which minibatches a reference measures what rounding does. The others have the part of
    their bounds that needs no pass, as if the model kept rounding as small as it is in its results.
    EVERY has no narrower bounds than the others.

    NONE     of none, as long as the pipeline has the reference's loss to the last bit; then of the
             first that differs, in one direction
    FIRST    of the very first, in one direction; where buffers are compared, of the first of each
             further replica too, by a forward pass: nothing else measures its buffers
    EVERY    of every one, in all directions
    """

    NONE = 0
    FIRST = 1
    EVERY = 2


@dataclass(frozen=True, slots=True)
class PipelineBounds:
    """How far a right pipeline may be from the reference, in largest elements: the weights of all
    stages, the buffers of each stage and replica, the losses of the last run, the gradients of each
    stage's first update. Plain data: rank 0 measures them for all ranks."""

    parameters: Errors
    buffers: list[list[Errors]]
    losses: list[float]
    first_gradients: list[Errors]


@dataclass(frozen=True, slots=True)
class _Passed:
    """What one pass of the whole model gives: the loss; by name, the gradients and the buffers
    after it."""

    loss: float
    gradients: Tensors
    buffers: Tensors


class PipelineReference:
    """The state of a model under the rule of a pipeline.

    `model` is the user's own, untraced, which the reference takes over: it runs whole, with the
    weights of each stage in the version that the rule names. `owned` says what is in each stage:
    the stage's names of its parameters and buffers, and the model's names for them. Parameters in
    no stage stay as they are.

    With an `arithmetic`, minibatches pass once more with rounding, which gives `bounds`: those that
    `measured` says. Where the pipeline's loss of another is beyond the part of its bound that needs
    no pass, a forward pass measures loss and buffers. `keeps_first` keeps the gradients of each
    stage's first update, which are then compared instead of buffers.
    `clip_norm` limits the norm of all gradients together, where all stages update at once.
    `forward` is how the model is called.
    """

    def __init__(
        self,
        model: nn.Module,
        owned: Sequence[Mapping[str, str]],
        schedule: Schedule,
        optimiser: Sgd,
        loss: Loss,
        arithmetic: Arithmetic | None = None,
        *,
        measured: Measured = Measured.EVERY,
        keeps_first: bool = False,
        clip_norm: float | None = None,
        forward: Forward = called,
    ) -> None:
        self.model = model.train()
        self._clip_norm = clip_norm
        self._forward = forward
        self.schedule = schedule
        self.optimiser = optimiser
        self.loss = loss
        self.arithmetic = arithmetic
        self._measured = measured
        self._passed = 0
        self._has_differed = False
        self._keeps_first = keeps_first
        self.drift = Drift(optimiser)
        self._held = Buffers(model)
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        self._tied = self._parameters.keys() - dict(model.named_parameters()).keys()
        self._owned = owned
        self._loss_bounds: list[float] = []
        self.states = [
            self._state(names, replicas)
            for names, replicas in zip(owned, schedule.layout.replicas, strict=True)
        ]

    def _state(self, names: Mapping[str, str], replicas: int) -> StageState:
        held = self._held.copies()
        canonical = self._held.canonical
        buffers = {
            canonical[name]: held[canonical[name]] for name in names.values() if name in canonical
        }
        weights = {
            name: self._parameters[name].detach()
            for name in names.values()
            if name in self._parameters
        }
        errors = [dict.fromkeys(buffers, 0.0) for _ in range(replicas)]
        return StageState([weights], [dict(buffers) for _ in range(replicas)], errors)

    def run(self, batches: Sequence[Batch], got: Mapping[int, float] | None = None) -> list[float]:
        """One run over minibatches, from the newest weights; the loss of each. `got` are those that
        the pipeline has, by the number of the minibatch."""
        for state in self.states:
            del state.weights[:-1]
        losses = []
        self._loss_bounds = []
        for minibatch, batch in enumerate(batches):
            losses.append(self._learn(minibatch, batch, (got or {}).get(minibatch)))
            self._clip(minibatch == len(batches) - 1)
            for number, state in enumerate(self.states):
                if state.minibatches == self._update_size(number) or minibatch == len(batches) - 1:
                    state.step(self.optimiser, self.drift, keeps_first=self._keeps_first)
                # No later minibatch meets these versions. They keep their number and give up their
                # memory.
                for old in range(weights_met(self.schedule, number, minibatch + 1)):
                    state.weights[old].clear()
        return losses

    def _clip(self, at_end: bool) -> None:
        """Clips the sums of gradients before an update; and the bounds, for which the norm itself
        may be off by as much as all gradients together."""
        count = self.states[0].minibatches
        if self._clip_norm is None or not (count == self._update_size(0) or at_end):
            return
        square = error = 0.0
        counted: set[int] = set()
        for state in self.states:
            for name, total in state.total.items():
                mean = total / count
                if id(self._parameters[name]) in counted:
                    continue  # tied to one of an earlier stage
                counted.add(id(self._parameters[name]))
                square += float(torch.linalg.vector_norm(mean)) ** 2
                error += state.total_errors[name] / count * math.sqrt(mean.numel())
        norm = math.sqrt(square) + CLIP_EPSILON
        factor = min(1.0, self._clip_norm / norm)
        for state in self.states:
            for name, total in state.total.items():
                state.total_errors[name] *= factor
                state.total_errors[name] += factor * largest(total) * error / norm
                state.total[name] = total * factor

    def _update_size(self, stage: int) -> int:
        pipedream = self.schedule.variant == "pipedream"
        return self.schedule.layout.replicas[stage] if pipedream else self.schedule.microbatches

    def _learn(self, minibatch: int, batch: Batch, got: float | None) -> float:
        """Passes one minibatch, measures what rounding does to it, and adds its gradients."""
        for number, state in enumerate(self.states):
            version = state.weights[weights_met(self.schedule, number, minibatch)]
            for name, weight in version.items():
                self._parameters[name].data = weight
        passed = self._pass(minibatch, batch)
        errors: Errors = {}
        if self.arithmetic is not None:
            errors = self._measure(minibatch, batch, passed, got, self.arithmetic)
            if self._measured != Measured.NONE:
                self._note_certainty(passed.gradients, errors, self.arithmetic)
        self._passed += 1
        for state in self.states:
            place = minibatch % len(state.buffers)
            state.buffers[place] = {name: passed.buffers[name] for name in state.buffers[place]}
            state.add(passed.gradients, errors)
        return passed.loss

    def _note_certainty(self, gradients: Tensors, errors: Errors, arithmetic: Arithmetic) -> None:
        """Of the first minibatch: later ones meet weights that rounding has moved by themselves."""
        for state in self.states:
            if state.is_certain is None:
                own = {name: gradients[name] for name in state.weights[-1] if name in gradients}
                bounds = {name: arithmetic.factor * errors[name] for name in own}
                state.is_certain = is_certain(bounds, own)

    @property
    def uncertain_stages(self) -> list[int]:
        """The stages of whose gradients rounding in the arithmetic may make anything, as far as the
        first minibatch was measured."""
        return [number for number, state in enumerate(self.states) if state.is_certain is False]

    def _pass(self, minibatch: int, batch: Batch, backward: bool = True) -> _Passed:
        """One pass of the whole model; without `backward` there are no gradients."""
        inputs, targets = batch
        for state in self.states:
            self._held.put(state.buffers[minibatch % len(state.buffers)])
        self.model.zero_grad(set_to_none=True)
        with torch.set_grad_enabled(backward), LoneForward(), Float64Convolutions():
            loss = self.loss(self._forward(self.model, inputs), targets)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call] # torch's gap
        gradients = {
            # Of tied weights, each name has a tensor of its own: they are summed by name.
            name: check_gradient(name, parameter.grad).clone()
            if name in self._tied
            else check_gradient(name, parameter.grad)
            for name, parameter in self._parameters.items()
            if parameter.grad is not None
        }
        self.model.zero_grad(set_to_none=True)
        return _Passed(float(loss.detach()), gradients, self._held.copies())

    def _measure(
        self,
        minibatch: int,
        batch: Batch,
        plain: _Passed,
        got: float | None,
        arithmetic: Arithmetic,
    ) -> Errors:
        """Passes the minibatch again, with rounding, where that is measured: how far it may move
        its gradients. What it does to buffers and loss is added up here."""
        directions, backward = self._directions(plain.loss, got, arithmetic)
        passes = [
            self._distances(
                EveryOperatorRounds(arithmetic, seed=minibatch, direction=direction),
                *(minibatch, batch, plain, backward),
            )
            for direction in directions
        ] or [({}, {}, {})]
        of_loss, of_gradients, of_buffers = (furthest(each) for each in zip(*passes, strict=True))
        for state in self.states:
            errors = state.buffer_errors[minibatch % len(state.buffers)]
            for name in errors:
                errors[name] += of_buffers.get(name, 0.0)
        moved = of_loss.get("", 0.0)
        self._loss_bounds.append(arithmetic.factor * (moved + arithmetic.unit * abs(plain.loss)))
        return {
            name: of_gradients.get(name, 0.0) + arithmetic.unit * largest(gradient)
            for name, gradient in plain.gradients.items()
        }

    def _directions(
        self, loss: float, got: float | None, arithmetic: Arithmetic
    ) -> tuple[Sequence[float], bool]:
        """The directions in which a minibatch passes again, and whether backward too."""
        if self._measured == Measured.EVERY:
            return arithmetic.directions, True
        if self._measured == Measured.NONE and not self._has_differed and got not in (None, loss):
            self._has_differed = True
            return arithmetic.directions[:1], True
        is_first = self._measured == Measured.FIRST
        if is_first and self._passed == 0:
            return arithmetic.directions[:1], True
        # "Not at most" and not "above": a NaN is beyond as well.
        within = got is None or abs(got - loss) <= arithmetic.factor * arithmetic.unit * abs(loss)
        has_buffers = is_first and not self._keeps_first
        of_new_replica = has_buffers and self._passed < max(self.schedule.layout.replicas)
        return (arithmetic.directions[:1] if of_new_replica or not within else ()), False

    def _distances(
        self,
        rounds: EveryOperatorRounds,
        minibatch: int,
        batch: Batch,
        plain: _Passed,
        backward: bool,
    ) -> tuple[Errors, Errors, Errors]:
        """How far one unit of rounding moves the loss (named ""), gradients and buffers."""
        inputs, arithmetic = rounds.moved(batch[0]), rounds.arithmetic
        with moved_weights(self.model, rounds, self.drift.weights), rounds:
            moved = self._pass(minibatch, (inputs, batch[1]), backward)
        gradients = plain.gradients if backward else {}
        return (
            {"": abs(moved.loss - plain.loss) / arithmetic.moved},
            distances(moved.gradients, gradients, arithmetic),
            distances(moved.buffers, plain.buffers, arithmetic),
        )

    def parameters(self, stage: int) -> Tensors:
        """The newest weights of a stage, by the stage's names."""
        return self._by_stage_names(stage, self.states[stage].weights[-1])

    def buffers(self, stage: int, replica: int) -> Tensors:
        """The buffers of one replica of a stage: batch normalisation updates its statistics in the
        order of the replica's forwards."""
        return self._by_stage_names(stage, self.states[stage].buffers[replica])

    def first_gradients(self, stage: int) -> Tensors:
        """The mean gradients of a stage's first update, by the stage's names."""
        return self._by_stage_names(stage, self.states[stage].first_gradients)

    def bounds(self) -> PipelineBounds:
        """How far a right pipeline may be from all this."""
        assert self.arithmetic is not None, "bounds are measured with an arithmetic"
        factor, unit = self.arithmetic.factor, self.arithmetic.unit
        parameters = {name: 0.0 for state in self.states for name in state.weights[-1]}
        parameters |= self.drift.bounds()
        return PipelineBounds(
            parameters=parameters,
            buffers=[
                [
                    {
                        name: factor * (error + unit * largest(held[name]))
                        for name, error in errors.items()
                    }
                    for errors, held in zip(state.buffer_errors, state.buffers, strict=True)
                ]
                for state in self.states
            ],
            losses=self._loss_bounds,
            first_gradients=[
                {name: factor * error for name, error in state.first_errors.items()}
                for state in self.states
            ],
        )

    def named(self, stage: int, errors: Errors) -> Errors:
        """Bounds by the model's names, as those of a stage."""
        return {mine: errors[name] for mine, name in self._canonical(stage) if name in errors}

    def _by_stage_names(self, stage: int, tensors: Tensors) -> Tensors:
        return {mine: tensors[name] for mine, name in self._canonical(stage) if name in tensors}

    def _canonical(self, stage: int) -> Iterator[tuple[str, str]]:
        for mine, name in self._owned[stage].items():
            yield mine, self._held.canonical.get(name, name)
