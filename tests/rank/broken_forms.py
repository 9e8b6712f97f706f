"""Frameworks whose step is right in the plain form, and wrong in another."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pytest_dnnbench.rank.frameworks.ddp import DdpWorker
from pytest_dnnbench.rank.workloads.workload import Batch


class Undivided(DdpWorker):
    """Sums the gradients of the minibatches that it accumulates."""

    def _backward(self, batch: Batch) -> torch.Tensor:
        passes, self.passes = self.passes, 1
        try:
            return super()._backward(batch) / passes
        finally:
            self.passes = passes


class KeepsEveryPass(DdpWorker):
    """Never exchanges gradients, not even after the last minibatch."""

    def exchanging(self, last: bool) -> AbstractContextManager[object]:
        """No exchange."""
        return super().exchanging(False)


class CountsTwice(DdpWorker):
    """Runs blocks again with their buffers as they are by then."""

    def _build(self, *, wide: bool) -> None:
        super()._build(wide=wide)
        for block in self.module.children():
            block.forward = _again(type(block).forward.__get__(block))


def _again(forward: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *inputs: checkpoint(forward, *inputs, use_reentrant=False)


class ForgetsMomentum(DdpWorker):
    """A fused optimiser that starts anew in every step."""

    def fresh_optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """SGD without momentum, where it is fused."""
        optimiser = super().fresh_optimizer(module)
        for group in optimiser.param_groups:
            group["momentum"] = 0.0 if group["fused"] else group["momentum"]
        return optimiser
