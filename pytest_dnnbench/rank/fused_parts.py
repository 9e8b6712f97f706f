"""A fused optimiser of weights that ranks hold in parts: its kernel gets this rank's parts as plain
tensors, because torch's takes no DTensors for every optimiser, and never those of two meshes.

Right where an update is local to an element, as those of torch's fused optimisers are (SGD, Adam,
AdamW, Adagrad). Not here: what makes an optimiser fused (rank/step_forms.py).
"""

from types import MethodType

import torch
from torch import nn

from pytest_dnnbench.rank.whole import part


def update_parts(optimiser: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimiser, whose step works on this rank's parts from now on. To be called before its
    first step; its state is of the parts."""
    parts: dict[int, nn.Parameter] = {}
    step_of_all = optimiser.step

    def lent(parameter: nn.Parameter) -> nn.Parameter:
        """This rank's part, in the memory of the parameter, with the part of its gradient."""
        if id(parameter) not in parts:
            parts[id(parameter)] = nn.Parameter(part(parameter.detach()))
        own = parts[id(parameter)]
        own.grad = None if parameter.grad is None else part(parameter.grad)
        return own

    def step(self: torch.optim.Optimizer) -> None:
        held = [group["params"] for group in self.param_groups]
        for group in self.param_groups:
            group["params"] = [lent(each) for each in group["params"] if each.requires_grad]
        try:
            step_of_all()
        finally:
            for group, parameters in zip(self.param_groups, held, strict=True):
                group["params"] = parameters
            for own in parts.values():
                own.grad = None

    # A method, for schedulers look into it.
    optimiser.step = MethodType(step, optimiser)  # type: ignore[method-assign] # on purpose
    return optimiser
