"""Linear layers with ReLU between them: many weights and little work, for the sake of what ranks
exchange."""

from functools import partial

import torch
from torch import nn

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.workloads.workload import Batch, Workload


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

    def split(self, model: nn.Module, ranks: int) -> dict[str, str]:
        """Pairs of layers: by column, then by row."""
        if self.width % ranks:
            raise UsageError(
                f"the layers have {self.width} features, which {ranks} ranks cannot share evenly:"
                f" use a number of GPUs that divides {self.width}"
            )
        pairs = range(self.depth // 2 * 2)
        return {f"{layer}.0": "row" if layer % 2 else "column" for layer in pairs}


small = partial(Mlp, 256, 4)
wide = partial(Mlp, 4096, 8)
