"""`single`: plain PyTorch on one device, nothing between the model and its optimiser."""

import torch
from torch import nn

from pytest_dnnbench.rank.frameworks.data_parallel import DataParallelWorker


class SingleWorker(DataParallelWorker):
    """One rank, in no group."""

    def connect(self) -> None:
        """There is no other rank to join."""

    def align(self) -> None:
        """There is no other rank to wait for."""

    def wrap(
        self, module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Both unchanged."""
        return module, optimizer
