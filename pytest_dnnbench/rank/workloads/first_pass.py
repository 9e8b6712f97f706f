"""The first pass of a user's own model: what it was called with is said beside what it raises.

A traceback ends in the user's code, or in torch's. What went in, and what to give instead, only the
workload knows. Not here: whether a batch and a loss are ones (checks.py, proof/lone_forward.py).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pytest_dnnbench.errors import DnnbenchError
from pytest_dnnbench.rank.workloads.image_workload import ImageWorkload
from pytest_dnnbench.rank.workloads.workload import Batch, Workload

IN_PLACE_OF_IMAGES = "pytest_dnnbench.Workload, which says what it is trained on"

_MOST_VALUES = 4
"""Values of a tuple, list or dict that are described; of more, only their number."""

_OTHER_CAUSES = (DnnbenchError, MemoryError, torch.OutOfMemoryError)
"""What says itself what is wrong, and has nothing to do with the inputs."""


def first_loss(workload: Workload, model: nn.Module, batch: Batch) -> Any:
    """What the loss of a workload returns for a minibatch. An exception of the model or of the loss
    gets a note that says what they were called with."""
    inputs, targets = batch
    try:
        output = workload.forward(model, inputs)
    except _OTHER_CAUSES:
        raise
    except Exception as error:
        error.add_note(f"{type(model).__name__} was called with {_given(workload, inputs)}")
        raise
    try:
        return workload.loss(output, targets)
    except _OTHER_CAUSES:
        raise
    except Exception as error:
        error.add_note(
            f"{type(workload).__name__}.loss was called with the model's output,"
            f" {described(output)}, and the targets, {described(targets)}"
        )
        raise


def _given(workload: Workload, inputs: object) -> str:
    if isinstance(workload, ImageWorkload):
        return (
            f"the suite's images, {described(inputs)} (three channels by --dnn-image-size 224): a"
            f" model of anything else needs a {IN_PLACE_OF_IMAGES}"
        )
    if isinstance(inputs, Mapping):
        return f"the values of {described(inputs)}, by their names"
    if isinstance(inputs, tuple | list):
        return (
            f"the values of {described(inputs)}, in their order: for a"
            f" {type(inputs).__name__} as one argument, return it as a tuple's one value"
        )
    return described(inputs)


def described(tree: object) -> str:
    """A tensor, or a tuple, list or dict of tensors, by its kinds, shapes and types."""
    if isinstance(tree, torch.Tensor):
        return f"a tensor {tuple(tree.shape)} of {str(tree.dtype).removeprefix('torch.')}"
    if isinstance(tree, Mapping):
        values = [f"{name!r}: {described(value)}" for name, value in tree.items()]
    elif isinstance(tree, tuple | list):
        values = list(map(described, tree))
    else:
        return "None" if tree is None else f"a {type(tree).__name__}"
    some = ", ".join(values) if len(values) <= _MOST_VALUES else f"{len(values)} values"
    return f"a {type(tree).__name__} ({some})"
