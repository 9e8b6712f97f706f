"""`ddp` with PowerSGD, with one planted fault each: what the proof must catch."""

import sys

import torch
from torch import nn

from pytest_dnnbench.rank.frameworks.ddp import DdpWorker

Wrapped = tuple[nn.Module, torch.optim.Optimizer]


class NeverApproximates(DdpWorker):
    """Averages plainly: right training, and not what was asked for."""

    def wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Wrapped:
        """Puts the first approximation off."""
        wrapped = super().wrap(module, optimizer)
        assert self._power is not None
        self._power._state.start_powerSGD_iter = sys.maxsize
        return wrapped


class ForgetsErrors(DdpWorker):
    """What was left out of a step is not made up for in the next."""

    def update(self) -> None:
        """Updates, and forgets."""
        super().update()
        assert self._power is not None
        self._power._state.error_dict.clear()


class OneRankHigher(DdpWorker):
    """Exchanges more than was asked for."""

    def wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Wrapped:
        """Raises the rank of the approximation."""
        wrapped = super().wrap(module, optimizer)
        assert self._power is not None
        self._power._state.matrix_approximation_rank += 1
        return wrapped
