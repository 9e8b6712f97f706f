"""What a rank holds of the model between two steps: the saving of frameworks that share it out."""

import torch
from torch import nn

from pytest_dnnbench.rank.whole import part


def held_bytes(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Bytes of the parameters on this rank, and of its optimiser's state, by the names of their
    metrics."""
    states = [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    ]
    return {
        "parameter_bytes": float(sum(part(each).nbytes for each in module.parameters())),
        "optimiser_bytes": float(sum(part(each).nbytes for each in states)),
    }
