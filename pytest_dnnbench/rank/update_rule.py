"""How a training step updates the weights, in the framework's step and in the proof's reference.

    framework    averaged gradients ─> clipped ─> the workload's optimiser ─> its scheduler
    reference    SGD written out, where that is the workload's optimiser; else a fresh optimiser of
                 the workload, in float64, on the gradients that arrived on the rank

An optimiser of another kind may turn a difference of rounding into one of the size of the learning
rate: AdamW's first step is the sign of the gradient. So gradients are compared within the bounds of
rounding, and the update by itself: both sides start from the same gradients, and run the same
operators. Only kernels may round in another order. Each of their K roundings errs by a unit of the
weight before, of the weight after, or of the update, which is at most both together. So after one
update a weight may deviate by

    K * unit * (largest element before + largest after),    K = 64, as for every sum (rounding.py)

Not here: the errors of SGD (rounding.py, Drift).
"""

import inspect
import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LRScheduler

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank import marks
from pytest_dnnbench.rank.lone_forward import LoneForward
from pytest_dnnbench.rank.rounding import FLOAT64, Drift, SgdSettings, largest
from pytest_dnnbench.rank.whole import part, whole
from pytest_dnnbench.rank.workloads.workload import Workload

Tensors = dict[str, torch.Tensor]

CLIP_EPSILON = 1e-6
"""Added to the norm, as torch.nn.utils.clip_grad_norm_ does."""


def optimiser_for(
    workload: Workload, module: nn.Module, settings: SgdSettings
) -> torch.optim.Optimizer:
    """The workload's optimiser of a module's parameters, or SGD with these settings. Raises
    UsageError for what is no optimiser, one that needs a closure, or one of other parameters."""
    optimiser = workload.optimizer(module)
    if optimiser is None:
        return torch.optim.SGD(
            module.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
    name = type(workload).__name__
    if not isinstance(optimiser, torch.optim.Optimizer):
        raise UsageError(
            f"{name}.optimizer returned a {type(optimiser).__name__}: return a"
            " torch.optim.Optimizer of the parameters of the module that it is given"
        )
    closure = inspect.signature(optimiser.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UsageError(
            f"{name}.optimizer returned {type(optimiser).__name__}, whose step needs a closure that"
            " runs the model again: return one that updates by the gradients alone, as SGD or AdamW"
        )
    own = {id(parameter) for parameter in module.parameters()}
    for place, group in enumerate(optimiser.param_groups):
        # The reference would not update the model either, and a step without an update passes.
        if any(id(parameter) not in own for parameter in group["params"]):
            raise UsageError(
                f"{name}.optimizer returned {type(optimiser).__name__} with parameters in group"
                f" {place} that are not those of the module that it is given: use"
                " model.parameters()"
            )
    return optimiser


def scheduler_for(workload: Workload, optimiser: torch.optim.Optimizer) -> LRScheduler | None:
    """The workload's scheduler. Raises UsageError for what is none, or one that needs a metric."""
    scheduler = workload.scheduler(optimiser)
    if scheduler is None:
        return None
    name = f"{type(workload).__name__}.scheduler returned a {type(scheduler).__name__}"
    if not isinstance(scheduler, LRScheduler):
        raise UsageError(f"{name}: return a torch.optim.lr_scheduler.LRScheduler, or None")
    if "metrics" in inspect.signature(scheduler.step).parameters:
        raise UsageError(
            f"{name}, which waits for a metric of the validation: return one that counts updates"
        )
    return scheduler


class UpdateRule:
    """A framework's update: clipping, optimiser and scheduler of a module."""

    def __init__(
        self,
        workload: Workload,
        module: nn.Module,
        optimiser: torch.optim.Optimizer,
    ) -> None:
        self.clip_norm = workload.clip_norm
        self.module = module
        self.optimiser = optimiser
        self.scheduler = scheduler_for(workload, optimiser)

    def clip(self) -> None:
        """Clips the averaged gradients."""
        if self.clip_norm is not None:
            with marks.mark("optimizer", "clipping"):
                self._clip(self.clip_norm)

    def _clip(self, clip_norm: float) -> None:
        gradients = [each.grad for each in self.module.parameters() if each.grad is not None]
        if len({_held_by(gradient) for gradient in gradients}) == 1:
            clip_grad_norm_(self.module.parameters(), clip_norm)
            return
        # torch's function takes whole gradients or gradients in parts of one mesh, not both.
        norms = [whole(torch.linalg.vector_norm(gradient)) for gradient in gradients]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        factor = (clip_norm / (norm + CLIP_EPSILON)).clamp(max=1.0)
        for gradient in gradients:
            part(gradient).mul_(factor)

    def update(self) -> None:
        """Clips, then updates the weights and the learning rates."""
        self.clip()
        self.optimiser.step()
        self.follow()

    def follow(self) -> None:
        """Lets the scheduler follow an update."""
        if self.scheduler is not None:
            with marks.mark("optimizer", "scheduler"):
                self.scheduler.step()


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


def _held_by(tensor: torch.Tensor) -> object:
    """The ranks among which a tensor is shared out; None for one that each rank has to itself."""
    return getattr(tensor, "device_mesh", None)


def _same(values: torch.Tensor, others: torch.Tensor) -> bool:
    """Whether two tensors are equal, where NaN equals NaN."""
    return bool(((values == others) | (values.isnan() & others.isnan())).all())


def has_own_update(workload: Workload) -> bool:
    """Whether the optimiser or the scheduler is the user's."""
    kind = type(workload)
    return kind.optimizer is not Workload.optimizer or kind.scheduler is not Workload.scheduler


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


def rates_of(optimiser: torch.optim.Optimizer, scheduler: LRScheduler | None) -> Tensors:
    """The numbers in an optimiser's groups, as learning rate and momentum, and the count of its
    scheduler's steps: what a wrong scheduler would have otherwise."""
    numbers: dict[str, Any] = {
        f"{key} of group {place}": value
        for place, group in enumerate(optimiser.param_groups)
        for key, value in group.items()
        if key in ("lr", "momentum", "weight_decay")
    }
    if scheduler is not None:
        numbers["steps of the scheduler"] = scheduler.last_epoch
    return {
        name: torch.as_tensor(value, dtype=torch.float64).detach().cpu()
        for name, value in numbers.items()
    }


@torch.no_grad()
def clip_gradients(gradients: Tensors, clip_norm: float) -> None:
    """Scales gradients in place so that the norm of all together is at most `clip_norm`, written
    out: g * min(1, clip_norm / (norm + CLIP_EPSILON))."""
    squares = [float(torch.linalg.vector_norm(each)) ** 2 for each in gradients.values()]
    factor = clip_norm / (math.sqrt(sum(squares)) + CLIP_EPSILON)
    if factor < 1.0:
        for gradient in gradients.values():
            gradient.mul_(factor)
