"""Linear layers with ReLU between them: many weights and little work, for the sake of what ranks
exchange."""

from functools import partial

import torch
from torch import nn

from pytest_dnnbench.rank.workload import Batch, Workload


class Mlp(Workload):
    """`depth` square layers of `width`, and a head of ten classes; SGD and cross entropy."""

    output_name = "logits"
    classes = 10

    def __init__(self, width: int, depth: int) -> None:
        self.width, self.depth = width, depth

    def model(self) -> nn.Module:
        """As Workload.model; its blocks are the layers."""
        layers = [
            nn.Sequential(nn.Linear(self.width, self.width), nn.ReLU()) for _ in range(self.depth)
        ]
        return nn.Sequential(*layers, nn.Linear(self.width, self.classes))

    def batch(self, size: int) -> Batch:
        """Standard normal vectors, (size, width), and uniform labels."""
        return torch.randn(size, self.width), torch.randint(self.classes, (size,))


small = partial(Mlp, 256, 4)
wide = partial(Mlp, 4096, 8)
