"""The single-process reference of a data-parallel step.

The reference is plain on purpose: the user's own model, a loop over the shards, the mean of their
gradients, the update. BatchNorm normalises each shard by the statistics of that shard, as ranks do;
where ranks synchronise it, the shards of all ranks pass through the model as one batch.
Not here: the update of the weights (reference_update.py), how far a framework may be from it
(rounding.py), the comparison (comparison.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pytest_dnnbench.rank.buffers import Buffers
from pytest_dnnbench.rank.proof.arithmetic import FLOAT64, Arithmetic
from pytest_dnnbench.rank.proof.distance import Errors, Tensors, furthest
from pytest_dnnbench.rank.proof.float64_convolutions import Float64Convolutions
from pytest_dnnbench.rank.proof.lone_forward import LoneForward, check_gradient
from pytest_dnnbench.rank.proof.low_rank import LowRank
from pytest_dnnbench.rank.proof.reference_update import clip_gradients, reference_update
from pytest_dnnbench.rank.proof.rounding import (
    EveryOperatorRounds,
    bounds_of,
    distances,
    moved_weights,
)
from pytest_dnnbench.rank.update_rule import SgdSettings
from pytest_dnnbench.rank.workloads.batches import joined, parted
from pytest_dnnbench.rank.workloads.structure import tensors_of
from pytest_dnnbench.rank.workloads.workload import Batch, Workload


@dataclass(slots=True)
class Derivatives:
    """What the shards of one step give: their mean gradients, the buffers of each rank after its
    own shards, the loss of each shard; and the state of an exchange that approximates, before the
    next step. A parameter without a gradient is in `gradients` only where the framework exchanges
    zeros for it."""

    gradients: Tensors
    buffers: list[Tensors]
    losses: Tensors
    approximation: LowRank | None = None


@dataclass(frozen=True, slots=True)
class StepBounds:
    """How far a right framework may be from the derivatives of one step: by name, the largest
    distance of an element."""

    gradients: Errors
    buffers: Errors
    losses: Errors


class Reference:
    """A workload's training step over all shards in one process.

    optimiser          the settings of SGD, where the workload has no optimiser of its own
    shares_buffers     every rank starts a step from rank 0's buffers, and not from its own
    exchanges_zeros    a parameter without a gradient gets a gradient of zeros
    synchronised       batch normalisation takes the statistics of all ranks' samples
    approximation      what the exchange approximates on purpose, before the first step
    """

    def __init__(
        self,
        workload: Workload,
        model: nn.Module,
        optimiser: SgdSettings,
        *,
        shares_buffers: bool = True,
        exchanges_zeros: bool = False,
        synchronised: bool = False,
        approximation: LowRank | None = None,
    ) -> None:
        self.workload = workload
        self.model = model.train()
        self.rule = reference_update(workload, model, optimiser)
        self._shares_buffers = shares_buffers
        self._exchanges_zeros = exchanges_zeros
        self._synchronised = synchronised
        self._approximation = approximation
        self._moved_approximation: LowRank | None = None
        self._held = Buffers(model)
        self._buffers: list[Tensors] = []
        self._buffer_errors: Errors = {}
        self._errors: tuple[Errors, Errors] = {}, {}  # of this step's gradients and buffers

    def differentiate(
        self,
        shards: Sequence[Batch],
        passes: int = 1,
        approximation: LowRank | None = None,
    ) -> Derivatives:
        """Forward and backward on the global batch, given as `passes` minibatches per rank, rank by
        rank; the mean gradients are approximated as the exchange does, from the state before this
        step or the one given, and clipped as the workload says. The state for the next step stays
        as it is."""
        start = self._buffers or [self._held.copies()] * (len(shards) // passes)
        self.model.zero_grad(set_to_none=True)
        differentiated = self._together if self._synchronised else self._one_by_one
        ends, losses = differentiated(shards, passes, start)
        self._held.put(start[0])
        gradients = self._mean_gradients(len(shards))
        before = approximation or self._approximation
        after = before.exchange(gradients) if before else None
        if self.workload.clip_norm is not None:
            clip_gradients(gradients, self.workload.clip_norm)
        return Derivatives(gradients, ends, losses, after)

    def _one_by_one(
        self, shards: Sequence[Batch], passes: int, start: Sequence[Tensors]
    ) -> tuple[list[Tensors], Tensors]:
        """Adds up the gradients of the shards; returns the buffers of each rank, and the losses."""
        ends, losses = [], {}
        for number, batch in enumerate(shards):
            if number % passes == 0:
                self._held.put(start[number // passes])
            with LoneForward(), Float64Convolutions():
                loss = self.workload.loss_of(self.model, batch)
                if loss.requires_grad:
                    loss.backward()  # type: ignore[no-untyped-call] # torch's gap
            losses[str(number)] = loss.detach()
            if number % passes == passes - 1:
                ends.append(self._held.copies())
        return ends, losses

    def _together(
        self, shards: Sequence[Batch], passes: int, start: Sequence[Tensors]
    ) -> tuple[list[Tensors], Tensors]:
        """As `_one_by_one`, where the minibatches that ranks have at the same time are one batch of
        the model. Each has its own loss."""
        losses = {}
        self._held.put(start[0])
        for number in range(passes):
            at_once = shards[number::passes]
            with LoneForward(), Float64Convolutions():
                outputs = self.workload.forward(self.model, joined([each for each, _ in at_once]))
                parts = parted(outputs, [len(next(tensors_of(each))) for each, _ in at_once])
                every = [
                    self.workload.loss(part, targets)
                    for part, (_, targets) in zip(parts, at_once, strict=True)
                ]
                torch.stack(every).sum().backward()  # type: ignore[no-untyped-call] # torch's gap
            for rank, loss in enumerate(every):
                losses[str(rank * passes + number)] = loss.detach()
        return [self._held.copies()] * len(start), losses

    def _mean_gradients(self, shards: int) -> Tensors:
        gradients = {}
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                gradients[name] = check_gradient(name, parameter.grad).div_(shards)
                parameter.grad = None
            elif self._exchanges_zeros and parameter.requires_grad:
                gradients[name] = torch.zeros_like(parameter)
        return gradients

    def bounds(
        self,
        shards: Sequence[Batch],
        passes: int,
        plain: Derivatives,
        arithmetic: Arithmetic = FLOAT64,
        approximation: LowRank | None = None,
        directions: Sequence[float] | None = None,
    ) -> StepBounds:
        """How far rounding in an arithmetic may move `plain`, the derivatives of these shards:
        measured by one more pass over them in each direction, of those given or of all.
        `approximation` is as of `differentiate`; what rounding has done to the state of the
        exchange in the steps before counts too."""
        start = approximation or self._moved_approximation
        errors = [
            self._distances(shards, passes, plain, EveryOperatorRounds(arithmetic, 0, way), start)
            for way in directions or arithmetic.directions
        ]
        gradients, of_buffers, losses = (furthest(each) for each in zip(*errors, strict=True))
        buffers = {
            name: error + self._buffer_errors.get(name, 0.0) for name, error in of_buffers.items()
        }
        if arithmetic == FLOAT64:
            self._errors = gradients, buffers
        return _step_bounds(gradients, buffers, losses, plain, arithmetic)

    @property
    def has_least_bounds(self) -> bool:
        """Whether `least_bounds` can be asked for: not of an exchange that approximates, whose
        state each measurement moves for the next."""
        return self._approximation is None

    def least_bounds(self, plain: Derivatives) -> StepBounds:
        """The part of `bounds` in float64 that needs no pass: as if the model kept rounding as
        small as it is in its results. Of a framework that is so near, no measurement would say
        otherwise, for it only adds."""
        nothing = dict.fromkeys(plain.gradients, 0.0)
        bounds = _step_bounds(
            nothing,
            {name: self._buffer_errors.get(name, 0.0) for name in plain.buffers[0]},
            dict.fromkeys(plain.losses, 0.0),
            plain,
            FLOAT64,
        )
        # What the comparison within these bounds says of the framework, in units of rounding.
        self._errors = _in_units(bounds.gradients), _in_units(bounds.buffers)
        return bounds

    def _distances(
        self,
        shards: Sequence[Batch],
        passes: int,
        plain: Derivatives,
        rounds: EveryOperatorRounds,
        approximation: LowRank | None,
    ) -> tuple[Errors, Errors, Errors]:
        """How far one unit of rounding moves gradients, buffers and losses."""
        arithmetic = rounds.arithmetic
        near = [rounds.moved(batch) for batch in shards]
        with moved_weights(self.model, rounds, self.rule.moved), rounds:
            moved = self.differentiate(near, passes, approximation)
        if arithmetic == FLOAT64:
            self._moved_approximation = moved.approximation
        return (
            distances(moved.gradients, plain.gradients, arithmetic),
            distances(moved.buffers[0], plain.buffers[0], arithmetic),
            distances(moved.losses, plain.losses, arithmetic),
        )

    def update(
        self,
        gradients: Mapping[str, torch.Tensor],
        buffers: Sequence[Tensors],
        approximation: LowRank | None = None,
    ) -> None:
        """One update by these mean gradients, which it may overwrite; the buffers of each rank, and
        the state of an exchange that approximates, for the next step."""
        self._approximation = approximation
        self._buffers = [buffers[0]] * len(buffers) if self._shares_buffers else list(buffers)
        self._held.put(self._buffers[0])
        errors, self._buffer_errors = self._errors
        self.rule.update(self.model, gradients, errors)

    @property
    def parameters(self) -> Tensors:
        """The weights themselves, by name."""
        return {name: weight.detach() for name, weight in self.model.named_parameters()}

    def parameter_bounds(self) -> Errors:
        """How far a right framework's weights may be from the reference's; 0 for weights that no
        update has touched."""
        return self.rule.bounds()


def _step_bounds(
    gradients: Errors, buffers: Errors, losses: Errors, plain: Derivatives, arithmetic: Arithmetic
) -> StepBounds:
    """The bounds of a step whose tensors rounding moves so far."""
    return StepBounds(
        bounds_of(gradients, plain.gradients, arithmetic),
        bounds_of(buffers, plain.buffers[0], arithmetic),
        bounds_of(losses, plain.losses, arithmetic),
    )


def _in_units(bounds: Errors) -> Errors:
    return {name: bound / FLOAT64.factor for name, bound in bounds.items()}
