"""The workload that the package adds: a training task with a loss and an optimiser of its own."""

import torch
from torch import nn

from pytest_dnnbench import Workload

FEATURES = 32


class Autoencoder(Workload):
    """Reconstructs rows of numbers from four; AdamW."""

    def model(self) -> nn.Module:
        """Three linear layers."""
        return nn.Sequential(
            nn.Linear(FEATURES, 16), nn.GELU(), nn.Linear(16, 4), nn.Linear(4, FEATURES)
        )

    def batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows, which are their own targets."""
        rows = torch.randn(size, FEATURES)
        return rows, rows

    def loss(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Squared error."""
        return nn.functional.mse_loss(output, targets)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(model.parameters(), lr=1e-3)
