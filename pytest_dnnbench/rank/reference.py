"""The single-process reference of a data-parallel step.

The reference is plain on purpose: the user's own model, a loop over the shards, the mean of their
gradients, SGD written out. BatchNorm normalises each shard by the statistics of that shard, as
ranks do. Not here: how far a framework may be from it (rounding.py), the comparison
(comparison.py).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pytest_dnnbench.rank.buffers import Buffers
from pytest_dnnbench.rank.data import Batch
from pytest_dnnbench.rank.lone_forward import LoneForward, check_gradient, logits_of
from pytest_dnnbench.rank.rounding import (
    FLOAT64,
    Arithmetic,
    Drift,
    EveryOperatorRounds,
    SgdSettings,
    bounds_of,
    distance,
    moved_weights,
)

Tensors = dict[str, torch.Tensor]
Errors = dict[str, float]


@dataclass(slots=True)
class Derivatives:
    """What the shards of one step give: their mean gradients, the buffers of each rank after its
    own shards, the loss of each shard. A parameter without a gradient is in `gradients` only where
    the framework exchanges zeros for it."""

    gradients: Tensors
    buffers: list[Tensors]
    losses: Tensors


@dataclass(frozen=True, slots=True)
class StepBounds:
    """How far a right framework may be from the derivatives of one step: by name, the largest
    distance of an element."""

    gradients: Errors
    buffers: Errors
    losses: Errors


class Reference:
    """SGD with momentum and weight decay (L2, added to the gradient) over all shards in one
    process.

    The first step's momentum buffer is the gradient itself (Sutskever et al., 2013, as
    torch.optim.SGD has it). A parameter without a gradient is left alone.

    shares_buffers     every rank starts a step from rank 0's buffers, and not from its own
    exchanges_zeros    a parameter without a gradient gets a gradient of zeros
    """

    def __init__(
        self,
        model: nn.Module,
        optimiser: SgdSettings,
        *,
        shares_buffers: bool = True,
        exchanges_zeros: bool = False,
    ) -> None:
        self.model = model.train()
        self.optimiser = optimiser
        self.drift = Drift(optimiser)
        self._shares_buffers = shares_buffers
        self._exchanges_zeros = exchanges_zeros
        self._velocity: Tensors = {}
        self._held = Buffers(model)
        self._buffers: list[Tensors] = []
        self._buffer_errors: Errors = {}
        self._gradient_errors: Errors = {}

    def differentiate(self, shards: Sequence[Batch], passes: int = 1) -> Derivatives:
        """Forward and backward on the global batch, given as `passes` minibatches per rank, rank by
        rank. The state for the next step stays as it is."""
        ranks = len(shards) // passes
        start = self._buffers or [self._held.copies()] * ranks
        ends, losses = [], {}
        self.model.zero_grad(set_to_none=True)
        for number, (images, labels) in enumerate(shards):
            if number % passes == 0:
                self._held.put(start[number // passes])
            with LoneForward():
                loss = cross_entropy(logits_of(self.model(images)), labels)
                if loss.requires_grad:
                    loss.backward()  # type: ignore[no-untyped-call] # torch's gap
            losses[str(number)] = loss.detach()
            if number % passes == passes - 1:
                ends.append(self._held.copies())
        self._held.put(start[0])
        return Derivatives(self._mean_gradients(len(shards)), ends, losses)

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
    ) -> StepBounds:
        """How far rounding in an arithmetic may move `plain`, the derivatives of these shards:
        measured by one more pass over them."""
        rounds = EveryOperatorRounds(arithmetic)
        images = [(images.clone(), labels) for images, labels in shards]
        for each, _ in images:
            rounds.move(each)
        with moved_weights(self.model, rounds, self.drift.weights), rounds:
            moved = self.differentiate(images, passes)
        gradients = _distances(moved.gradients, plain.gradients)
        buffers = {
            name: distance(moved.buffers[0][name], buffer) + self._buffer_errors.get(name, 0.0)
            for name, buffer in plain.buffers[0].items()
        }
        if arithmetic == FLOAT64:
            self._gradient_errors, self._buffer_errors = gradients, buffers
        return StepBounds(
            bounds_of(gradients, plain.gradients, arithmetic),
            bounds_of(buffers, plain.buffers[0], arithmetic),
            bounds_of(_distances(moved.losses, plain.losses), plain.losses, arithmetic),
        )

    @torch.no_grad()
    def update(self, gradients: Tensors, buffers: Sequence[Tensors]) -> None:
        """One update by these mean gradients, which it overwrites, and the buffers of each rank for
        the next step."""
        self._buffers = [buffers[0]] * len(buffers) if self._shares_buffers else list(buffers)
        self._held.put(self._buffers[0])
        optimiser = self.optimiser
        for name, parameter in self.model.named_parameters():
            if name in gradients:
                # In place: d = g + decay * w; v = momentum * v + d; w -= rate * v.
                velocity = gradients.pop(name).add_(parameter, alpha=optimiser.weight_decay)
                if name in self._velocity:
                    velocity.add_(self._velocity[name], alpha=optimiser.momentum)
                self._velocity[name] = velocity
                parameter.sub_(velocity, alpha=optimiser.learning_rate)
                self.drift.step(name, self._gradient_errors.get(name, 0.0), parameter, velocity)

    @property
    def parameters(self) -> Tensors:
        """The weights themselves, by name."""
        return {name: weight.detach() for name, weight in self.model.named_parameters()}

    def parameter_bounds(self) -> Errors:
        """How far a right framework's weights may be from the reference's; 0 for weights that no
        update has touched."""
        return self.drift.bounds()


def evaluated(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """A model's logits in evaluation mode."""
    with torch.no_grad(), LoneForward():
        return logits_of(model.eval()(images))


def evaluation_bounds(
    model: nn.Module, images: torch.Tensor, logits: torch.Tensor, arithmetic: Arithmetic = FLOAT64
) -> Errors:
    """How far rounding in an arithmetic may move these logits in evaluation mode."""
    rounds, moved_images = EveryOperatorRounds(arithmetic), images.clone()
    rounds.move(moved_images)
    with moved_weights(model, rounds, {}), rounds:
        moved = evaluated(model, moved_images)
    return bounds_of({"logits": distance(moved, logits)}, {"logits": logits}, arithmetic)


def _distances(moved: Tensors, plain: Tensors) -> Errors:
    return {name: distance(moved[name], tensor) for name, tensor in plain.items()}


def detached(tensors: Iterable[tuple[str, torch.Tensor]]) -> Tensors:
    """Copies by name, which later steps do not change."""
    return {name: tensor.detach().clone() for name, tensor in tensors}


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """A fingerprint of every bit of the tensors: equal on two ranks exactly when the tensors
    are."""
    fingerprint = hashlib.sha256()
    for name in sorted(tensors):
        fingerprint.update(name.encode())
        # As bytes: NumPy has no bfloat16.
        plain = tensors[name].detach().cpu().resolve_conj().contiguous().reshape(-1)
        fingerprint.update(plain.view(torch.uint8).numpy().data if plain.numel() else b"")
    return fingerprint.hexdigest()
