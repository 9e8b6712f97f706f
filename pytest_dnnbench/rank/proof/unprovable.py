"""Models of which nothing can be proven: random ones, and those that are ill-conditioned."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pytest_dnnbench.rank.proof.distance import largest
from pytest_dnnbench.rank.proof.lone_forward import LoneForward, outputs_of
from pytest_dnnbench.rank.workloads.workload import Workload

MOST_BOUND = 1e-3
"""Of a step's gradients, the tensor that rounding moves least must be this certain. Otherwise a
wrong step could not be told from rounding."""

UNCERTAIN = (
    "rounding in float64 alone may move each of the model's gradients by more than"
    f" {MOST_BOUND:.0e} of itself, so no step can be proven right: use a model or a batch that is"
    " better conditioned (larger images, so that batch normalisation has more values; smaller"
    " first weights)"
)


def is_certain(bounds: Mapping[str, float], gradients: Mapping[str, torch.Tensor]) -> bool:
    """Whether there is a gradient that rounding moves little enough for a wrong step to be told
    from a right one; true where none is but zeros."""
    sizes = {name: largest(tensor) for name, tensor in gradients.items()}
    parts = [bounds[name] / size for name, size in sizes.items() if size > 0]
    return not parts or min(parts) <= MOST_BOUND


def is_random(workload: Workload, model: nn.Module, inputs: Any) -> bool:
    """Whether two passes over the same inputs, from the same buffers, differ: then the model draws
    numbers that no generator of torch makes."""
    # Buffers by their place: a forward may put a new tensor there.
    places = [
        (part._buffers, name, buffer.clone())
        for part in model.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None
    ]
    passes = []
    for _ in range(2):
        for table, name, buffer in places:
            table[name] = buffer.clone()
        with torch.no_grad(), LoneForward():
            passes.append(outputs_of(workload, workload.forward(model, inputs)))
    for table, name, buffer in places:
        table[name] = buffer
    first, second = passes
    return any(not torch.equal(first[name], second[name]) for name in first)


RANDOM = (
    "the model is random: two passes over the same inputs differ, with torch's random numbers"
    " replaced by their means; draw random numbers with torch only, so that the proof can switch"
    " them off"
)
