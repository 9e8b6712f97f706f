"""How the proof's reference updates the weights: by SGD written out, where that is the workload's
optimiser; else by a fresh optimiser of the workload, in float64, on the gradients that arrived on
the rank.

An optimiser of another kind may turn a difference of rounding into one of the size of the learning
rate: AdamW's first step is the sign of the gradient. So gradients are compared within the bounds of
rounding, and the update by itself: both sides start from the same gradients, and run the same
operators. Only kernels may round in another order. Each of their K roundings errs by a unit of the
weight before, of the weight after, or of the update, which is at most both together. So after one
update a weight may deviate by

    K * unit * (largest element before + largest after),    K = 64, as for every sum (arithmetic.py)

Not here: the errors of SGD (drift.py).
"""

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.proof.arithmetic import FLOAT64
from pytest_dnnbench.rank.proof.distance import Tensors, largest
from pytest_dnnbench.rank.proof.drift import Drift
from pytest_dnnbench.rank.proof.lone_forward import LoneForward
from pytest_dnnbench.rank.update_rule import (
    CLIP_EPSILON,
    SgdSettings,
    has_own_update,
    optimiser_for,
    rates_of,
    scheduler_for,
)
from pytest_dnnbench.rank.workloads.workload import Workload


class ReferenceUpdate(Protocol):
    """The reference's update, and how far rounding may have moved the weights."""

    by_arrived: bool
    """Whether it updates by the gradients that arrived on the rank, not by its own."""

    @property
    def moved(self) -> Mapping[str, float]:
        """By weight, how far rounding may have moved it, in units of one rounding."""

    def update(
        self,
        model: nn.Module,
        gradients: Mapping[str, torch.Tensor],
        errors: Mapping[str, float],
    ) -> None:
        """One update of the model by these gradients, whose errors these are. Unless it updates by
        those that arrived, it overwrites and keeps them."""

    def rates(self) -> Tensors:
        """The settings of the optimiser that a scheduler moves, and how often it has; empty where
        nothing does."""

    def bounds(self) -> dict[str, float]:
        """How far a right framework's weights may be from the reference's."""


class WrittenSgd:
    """SGD with momentum and weight decay (L2, added to the gradient). The first step's momentum
    buffer is the gradient itself (Sutskever et al., 2013, as torch.optim.SGD has it)."""

    by_arrived = False

    def __init__(self, optimiser: SgdSettings) -> None:
        self.optimiser = optimiser
        self._drift = Drift(optimiser)
        self._velocity: Tensors = {}

    @property
    def moved(self) -> Mapping[str, float]:
        """As ReferenceUpdate.moved."""
        return self._drift.weights

    @torch.no_grad()
    def update(
        self,
        model: nn.Module,
        gradients: Mapping[str, torch.Tensor],
        errors: Mapping[str, float],
    ) -> None:
        """As ReferenceUpdate.update. A parameter without a gradient is left alone."""
        optimiser = self.optimiser
        for name, parameter in model.named_parameters():
            if name in gradients:
                # In place: d = g + decay * w; v = momentum * v + d; w -= rate * v.
                velocity = gradients[name].add_(parameter, alpha=optimiser.weight_decay)
                if name in self._velocity:
                    velocity.add_(self._velocity[name], alpha=optimiser.momentum)
                self._velocity[name] = velocity
                parameter.sub_(velocity, alpha=optimiser.learning_rate)
                self._drift.step(name, errors.get(name, 0.0), parameter, velocity)

    def rates(self) -> Tensors:
        """As ReferenceUpdate.rates: nothing moves them."""
        return {}

    def bounds(self) -> dict[str, float]:
        """As ReferenceUpdate.bounds."""
        return self._drift.bounds()


class OwnOptimiser:
    """The workload's own optimiser and scheduler, fresh, on the reference's model."""

    by_arrived = True

    def __init__(self, workload: Workload, model: nn.Module, settings: SgdSettings) -> None:
        self._optimiser = optimiser_for(workload, model, settings)
        self._scheduler = scheduler_for(workload, self._optimiser)
        self._moved: dict[str, float] = {}

    @property
    def moved(self) -> Mapping[str, float]:
        """As ReferenceUpdate.moved."""
        return self._moved

    def update(
        self,
        model: nn.Module,
        gradients: Mapping[str, torch.Tensor],
        errors: Mapping[str, float],
    ) -> None:
        """As ReferenceUpdate.update. Raises UsageError for an optimiser that changes gradients."""
        parameters = dict(model.named_parameters())
        before = {name: largest(parameter) for name, parameter in parameters.items()}
        for name, parameter in parameters.items():
            parameter.grad = gradients[name].clone() if name in gradients else None
        with LoneForward():
            self._optimiser.step()
        if self._scheduler is not None:
            self._scheduler.step()
        for name, parameter in parameters.items():
            if parameter.grad is not None and not _same(parameter.grad, gradients[name]):
                raise UsageError(
                    f"{type(self._optimiser).__name__}.step changes the gradient of {name!r}"
                    " itself, so the proof cannot see what it was: let it work on a copy"
                )
            parameter.grad = None
            self._moved[name] = self._moved.get(name, 0.0) + FLOAT64.unit * (
                before[name] + largest(parameter)
            )

    def rates(self) -> Tensors:
        """As ReferenceUpdate.rates."""
        return rates_of(self._optimiser, self._scheduler)

    def bounds(self) -> dict[str, float]:
        """As ReferenceUpdate.bounds."""
        return {name: FLOAT64.factor * error for name, error in self._moved.items()}


def _same(values: torch.Tensor, others: torch.Tensor) -> bool:
    """Whether two tensors are equal, where NaN equals NaN."""
    return bool(((values == others) | (values.isnan() & others.isnan())).all())


def reference_update(
    workload: Workload, model: nn.Module, settings: SgdSettings
) -> ReferenceUpdate:
    """The reference's update of a workload: SGD written out where nothing of it is the user's."""
    if has_own_update(workload):
        return OwnOptimiser(workload, model, settings)
    return WrittenSgd(settings)


def in_words(workload: Workload, optimiser: torch.optim.Optimizer) -> str:
    """The reference's update of a workload whose optimiser this is, for the record."""
    clipped = "" if workload.clip_norm is None else "clipped, "
    own = has_own_update(workload)
    return clipped + (f"a fresh {type(optimiser).__name__}" if own else "SGD written out")


@torch.no_grad()
def clip_gradients(gradients: Tensors, clip_norm: float) -> None:
    """Scales gradients in place so that the norm of all together is at most `clip_norm`, written
    out: g * min(1, clip_norm / (norm + CLIP_EPSILON))."""
    squares = [float(torch.linalg.vector_norm(each)) ** 2 for each in gradients.values()]
    factor = clip_norm / (math.sqrt(sum(squares)) + CLIP_EPSILON)
    if factor < 1.0:
        for gradient in gradients.values():
            gradient.mul_(factor)
