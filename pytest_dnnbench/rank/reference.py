"""The single-process reference of a data-parallel step, and the comparison with it.

The reference is plain on purpose: one model, a loop over the shards, the mean of their gradients,
SGD written out. BatchNorm normalises each shard by the statistics of that shard, as ranks do.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pytest_dnnbench.messages import RunRequest
from pytest_dnnbench.rank.data import Batch

Tensors = dict[str, torch.Tensor]


@dataclass
class ReferenceStep:
    """The state after one step: averaged gradients, updated parameters, rank 0's buffers."""

    gradients: Tensors
    parameters: Tensors
    buffers: Tensors


class Reference:
    """SGD with momentum and weight decay (L2, added to the gradient) over all shards in one
    process.

    The first step's momentum buffer is the gradient itself (Sutskever et al., 2013, as
    torch.optim.SGD has it).
    """

    def __init__(self, model: nn.Module, request: RunRequest) -> None:
        self.model = model.train()
        self.request = request
        self.velocity: Tensors = {}

    def step(
        self, shards: Sequence[Batch], passes: int = 1, arrived: Tensors | None = None
    ) -> ReferenceStep:
        """One update on the global batch, given as `passes` minibatches per rank, rank by rank.

        A rank's minibatches update its buffers one after the other; the next step starts from rank
        0's buffers. The update uses the mean gradients, or the gradients in `arrived` where the
        framework's exchange rounds them.
        """
        total: Tensors = {}
        buffers: Tensors = {}
        before = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        for number, (images, labels) in enumerate(shards):
            if number % passes == 0:
                for name, buffer in self.model.named_buffers():
                    buffer.copy_(before[name])
            self.model.zero_grad()
            loss = cross_entropy(self.model(images), labels)
            loss.backward()  # type: ignore[no-untyped-call] # torch's gap
            for name, parameter in self.model.named_parameters():
                if parameter.grad is not None:
                    total[name] = total.get(name, torch.zeros_like(parameter)) + parameter.grad
            if number == passes - 1:
                buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name])
        gradients = {name: gradient / len(shards) for name, gradient in total.items()}
        self._update(gradients if arrived is None else arrived)
        return ReferenceStep(gradients, detached(self.model.named_parameters()), buffers)

    def _update(self, gradients: Tensors) -> None:
        request = self.request
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name in gradients:
                    change = gradients[name] + request.weight_decay * parameter
                    if name in self.velocity:
                        change = request.momentum * self.velocity[name] + change
                    self.velocity[name] = change
                    parameter.sub_(request.learning_rate * change)


def without_randomness(model: nn.Module) -> nn.Module:
    """Switches dropout and stochastic depth off: a rank and its reference draw different
    numbers."""
    for module in model.modules():
        probability = getattr(module, "p", None)
        if isinstance(probability, float) and (
            "Drop" in type(module).__name__ or "Stochastic" in type(module).__name__
        ):
            module.p = 0.0  # type: ignore[assignment] # typed as a tensor or a module
    return model


def detached(tensors: Iterable[tuple[str, torch.Tensor]]) -> Tensors:
    """Copies by name, which later steps do not change."""
    return {name: tensor.detach().clone() for name, tensor in tensors}


def deviation(
    got: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], floor: float = 1.0
) -> tuple[float, str]:
    """The largest deviation over all tensors, and the name of that tensor.

    The deviation of a tensor is max |got - expected| / max(floor, max |expected|). It is infinite
    where a tensor is absent, of another shape, or not a number.
    """
    worst, where = 0.0, ""
    for name in sorted({*got, *expected}):
        if name not in got or name not in expected or got[name].shape != expected[name].shape:
            return float("inf"), name
        if not expected[name].numel():
            continue
        reference = expected[name].detach().double()
        scale = max(floor, float(reference.abs().max()))
        deviates = float((got[name].detach().double() - reference).abs().max()) / scale
        # "Not at most" and not "above": the comparison has to catch a NaN as well.
        if not deviates <= worst:
            worst, where = (float("inf") if math.isnan(deviates) else deviates), name
    return worst, where


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """A fingerprint of every bit of the tensors: equal on two ranks exactly when the tensors
    are."""
    fingerprint = hashlib.sha256()
    for name in sorted(tensors):
        fingerprint.update(name.encode())
        fingerprint.update(tensors[name].contiguous().cpu().numpy().tobytes())
    return fingerprint.hexdigest()
