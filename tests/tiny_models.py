"""Models small enough for tests; users' own factories as far as the package can tell."""

import os
import time

import torch
from torch import nn


def tiny(channels: int = 1, classes: int = 10) -> nn.Module:
    """Convolution, BatchNorm, dropout, linear: everything that makes a data-parallel step hard to get right."""
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64, classes),
    )


class Burdened(nn.Module):
    """Planted faults: sleeps TINY_SLEEP_S in each step and keeps TINY_BALLAST_MIB of tensors alive. The proof's double
    precision is spared."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 10)
        self.ballast: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits."""
        if images.dtype == torch.float32:
            time.sleep(float(os.environ.get("TINY_SLEEP_S", "0")))
            if not self.ballast:
                self.ballast.append(torch.ones(int(os.environ.get("TINY_BALLAST_MIB", "0")) * 2**18))
        logits: torch.Tensor = self.linear(images.flatten(1))
        return logits


class Diverging(nn.Module):
    """Its loss is not a number from the first step on."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits; in single precision, not numbers. The proof's double precision is spared."""
        logits: torch.Tensor = self.linear(images.flatten(1))
        return logits * float("nan") if images.dtype == torch.float32 else logits
