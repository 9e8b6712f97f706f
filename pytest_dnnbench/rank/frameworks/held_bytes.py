"""What a rank holds of the model between two steps: the saving of frameworks that share it out."""

from collections.abc import Iterable

import torch
from torch import nn

from pytest_dnnbench.rank.whole import part


def held_bytes(
    modules: Iterable[nn.Module], optimizers: Iterable[torch.optim.Optimizer]
) -> dict[str, float]:
    """Bytes of the parameters of these modules on this rank, and of the optimisers' state, by the
    names of their metrics."""
    states = [
        value
        for optimizer in optimizers
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    ]
    parameters = [each for module in modules for each in module.parameters()]
    return {
        "parameter_bytes": float(sum(part(each).nbytes for each in parameters)),
        "optimiser_bytes": float(sum(part(each).nbytes for each in states)),
    }
