"""A stage in the reference of a pipeline: weights by version, buffers, momentum, gradients."""

from dataclasses import dataclass, field

import torch

from pytest_dnnbench.rank.pipeline.sgd import Sgd
from pytest_dnnbench.rank.proof.distance import Errors, Tensors
from pytest_dnnbench.rank.proof.drift import Drift


@dataclass
class StageState:
    """A stage in the reference, by the model's names: its weights by version, newest last; the
    buffers of each replica; the momentum; the sum of the next update's gradients; the mean
    gradients of the first update, where they are kept.

    The errors are how far rounding may move the sum of the gradients and the buffers. `is_certain`
    is whether the gradients of the first minibatch tell a wrong stage from a right one, where they
    have been measured.
    """

    weights: list[Tensors]
    buffers: list[Tensors]
    buffer_errors: list[Errors]
    velocity: Tensors = field(default_factory=dict)
    total: Tensors = field(default_factory=dict)
    total_errors: Errors = field(default_factory=dict)
    minibatches: int = 0
    is_certain: bool | None = None
    first_gradients: Tensors = field(default_factory=dict)
    first_errors: Errors = field(default_factory=dict)

    def add(self, gradients: Tensors, errors: Errors) -> None:
        for name in self.weights[-1]:
            if name in gradients:
                before = self.total.get(name)
                gradient = gradients[name]
                self.total[name] = gradient if before is None else before.add_(gradient)
                self.total_errors[name] = self.total_errors.get(name, 0.0) + errors.get(name, 0.0)
        self.minibatches += 1

    def step(self, optimiser: Sgd, drift: Drift, *, keeps_first: bool = False) -> None:
        """One update by the mean gradients; with `keeps_first`, those of the first stay."""
        keeps, following = keeps_first and not self.first_gradients, {}
        errors = {name: error / self.minibatches for name, error in self.total_errors.items()}
        for name, weight in self.weights[-1].items():
            following[name] = weight
            if name in self.total:
                gradient = self.total[name]
                if self.minibatches > 1:  # a division by one only takes time
                    gradient.div_(self.minibatches)
                # In place of what is not needed again, and with `alpha`: new memory costs as much
                # time as the sums. Versions of the weights stay as they are. Each sum rounds as
                # that of torch's SGD: of what is equal to the last bit no bound is measured.
                into = torch.empty_like(gradient) if keeps else gradient
                change = torch.add(gradient, weight, alpha=optimiser.weight_decay, out=into)
                velocity, free = change, None
                if name in self.velocity:
                    velocity = self.velocity[name].mul_(optimiser.momentum).add_(change)
                    free = change
                self.velocity[name] = velocity
                following[name] = torch.sub(
                    weight, velocity, alpha=optimiser.learning_rate, out=free
                )
                drift.step(name, errors[name], following[name], velocity)
        if keeps:
            self.first_gradients, self.first_errors = self.total, errors
        self.weights.append(following)
        self.total, self.total_errors, self.minibatches = {}, {}, 0
