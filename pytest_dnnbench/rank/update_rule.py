"""How a framework's training step updates the weights:

    averaged gradients ─> clipped ─> the workload's optimiser ─> its scheduler

Not here: the update of the proof's reference (proof/reference_update.py).
"""

import inspect
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LRScheduler

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank import marks
from pytest_dnnbench.rank.whole import part, whole
from pytest_dnnbench.rank.workloads.workload import Workload

Tensors = dict[str, torch.Tensor]

CLIP_EPSILON = 1e-6
"""Added to the norm, as torch.nn.utils.clip_grad_norm_ does."""


class SgdSettings(Protocol):
    """What SGD has to know."""

    @property
    def learning_rate(self) -> float:
        """Of the update."""

    @property
    def momentum(self) -> float:
        """Of the update."""

    @property
    def weight_decay(self) -> float:
        """L2, added to the gradient."""


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


def _held_by(tensor: torch.Tensor) -> object:
    """The ranks among which a tensor is shared out; None for one that each rank has to itself."""
    return getattr(tensor, "device_mesh", None)


def has_own_update(workload: Workload) -> bool:
    """Whether the optimiser or the scheduler is the user's."""
    kind = type(workload)
    return kind.optimizer is not Workload.optimizer or kind.scheduler is not Workload.scheduler


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
