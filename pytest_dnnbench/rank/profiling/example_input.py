"""Examples of the inputs of a workload that is to be cut into stages.

Not here: batches that are trained on (workloads/batches.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pytest_dnnbench.rank.workloads.batches import moved, synthetic_batch
from pytest_dnnbench.rank.workloads.structure import tensors_of
from pytest_dnnbench.rank.workloads.workload import Batch, Workload, called

TRACED_IMAGES = 2
"""The smallest batch that batch normalisation takes at any image size. The operators do not depend
on the size of the batch."""

Forward = Callable[[nn.Module, Any], Any]
"""(model, inputs) -> what the model returns for them."""


@dataclass(frozen=True, slots=True)
class Example:
    """Inputs that a model is traced with, how to get those of another number of samples, how the
    model is called with them, and their name in messages."""

    inputs: Any
    more: Callable[[], Any]
    forward: Forward = called
    what: str = "the inputs"

    @property
    def device(self) -> torch.device:
        """That of the inputs."""
        return next(tensors_of(self.inputs)).device

    @property
    def samples(self) -> int:
        """Rows of the first tensor."""
        return rows(self.inputs)


def rows(inputs: Any) -> int:
    """The length of the first tensor's first dimension; 1 where it has none."""
    first = next(tensors_of(inputs))
    return len(first) if first.dim() else 1


def of_tensor(images: torch.Tensor) -> Example:
    """That of a model of one tensor, samples first."""
    return Example(images, lambda: torch.cat([images, images[:1].flip(-1)]))


def traced_example(workload: Workload, device: torch.device | str = "cpu") -> Example:
    """That of a workload, on a device. Raises UsageError for what is no batch."""
    inputs = example_input(workload, TRACED_IMAGES, device=device)
    if isinstance(inputs, torch.Tensor):
        return Example(inputs, of_tensor(inputs).more, workload.forward)
    return Example(
        inputs,
        lambda: example_input(workload, TRACED_IMAGES + 1, device=device),
        workload.forward,
        f"the inputs of {type(workload).__name__}",
    )


def example_input(
    workload: Workload, size: int, number: int = 0, device: torch.device | str = "cpu"
) -> Any:
    """The inputs of synthetic minibatch `number`, of so many samples, the same each time."""
    return example_batch(workload, size, number, device)[0]


def example_batch(
    workload: Workload, size: int, number: int = 0, device: torch.device | str = "cpu"
) -> Batch:
    """The same with its targets."""
    host = torch.device("cpu")
    made = synthetic_batch(workload, 0, number, host, size=size, seed=0)
    return moved(made, torch.device(device))
