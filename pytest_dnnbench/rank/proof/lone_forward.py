"""A pass of the user's own model in one process, as the references of proofs run it: without
randomness and without other ranks. What a model returns is checked here."""

from typing import Any

import torch

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.proof.operator_mode import Arguments, Named, name_of
from pytest_dnnbench.rank.proof.randomness import NoRandomness
from pytest_dnnbench.rank.workloads.structure import tensors_of
from pytest_dnnbench.rank.workloads.workload import Workload

_COLLECTIVES = ("c10d", "_c10d_functional", "c10d_functional")
"""Where torch.distributed's operators are."""


class LoneForward(NoRandomness):
    """NoRandomness in one process: a collective raises UsageError. It would wait for ranks that do
    not run the reference."""

    def run(self, operator: Any, args: Arguments, named: Named) -> Any:
        """Runs an operator, unless it is a collective."""
        if operator.namespace in _COLLECTIVES:
            raise UsageError(
                f"the model's forward calls a collective ({name_of(operator)}), as synchronised"
                " batch normalisation does: the reference of the proof runs the model in one"
                " process, where nobody answers it; leave it out of the model (of ddp, give"
                " --dnn-ddp-sync-batchnorm instead), or benchmark the model without it"
            )
        return super().run(operator, args, named)


def logits_of(output: object) -> torch.Tensor:
    """What a model returned, if it is a tensor of logits. Raises UsageError that names what it is
    instead."""
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, dict):
        parts = f"a {type(output).__name__} with the keys {', '.join(map(repr, output))}"
    elif isinstance(output, tuple | list):
        parts = f"a {type(output).__name__} of {len(output)}"
    else:
        parts = f"a {type(output).__name__}"
    raise UsageError(
        f"the model returns {parts}, not one tensor: wrap it in a module whose forward returns the"
        " logits alone, or give a pytest_dnnbench.Workload whose loss takes it"
    )


def checked_loss(workload: Workload, loss: object) -> torch.Tensor:
    """A workload's loss, if it is one finite number. Raises UsageError that names what it is
    instead."""
    if isinstance(loss, torch.Tensor) and loss.dim() == 0 and loss.is_floating_point():
        if not loss.isfinite():
            raise UsageError(
                f"{type(workload).__name__}.loss is {loss.item()} for the first minibatch and fresh"
                " weights, so nothing can be compared with it: look for such values in the batch,"
                " and for a division by zero"
            )
        return loss
    what = (
        f"a tensor of shape {tuple(loss.shape)} and type {str(loss.dtype).removeprefix('torch.')}"
        if isinstance(loss, torch.Tensor)
        else f"a {type(loss).__name__}"
    )
    raise UsageError(
        f"{type(workload).__name__}.loss returned {what}: return the mean of the minibatch, a"
        " tensor of one floating-point number without a dimension"
    )


def outputs_of(workload: Workload, output: object) -> dict[str, torch.Tensor]:
    """The floating-point tensors of a model's output by name, also those in tuples, lists and
    dicts."""
    tensors = [each for each in tensors_of(output) if each.is_floating_point() or each.is_complex()]
    name = workload.output_name
    return {name if not place else f"{name} {place}": each for place, each in enumerate(tensors)}


def check_gradient(name: str, gradient: torch.Tensor) -> torch.Tensor:
    """A gradient, unless it is sparse. Raises UsageError for that."""
    if gradient.layout != torch.strided:
        raise UsageError(
            f"the gradient of the parameter {name!r} is sparse, which SGD with weight decay cannot"
            " take and ranks cannot average: build its layer with sparse=False"
        )
    return gradient
