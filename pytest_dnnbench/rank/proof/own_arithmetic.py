"""The arithmetic that a user's own model computes in when it is timed, found by a pass of it in one
process."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import nn

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.buffers import Buffers
from pytest_dnnbench.rank.proof.arithmetic import Arithmetic, TypesUsed, coarsest
from pytest_dnnbench.rank.proof.lone_forward import LoneForward, check_gradient, checked_loss
from pytest_dnnbench.rank.workloads.first_pass import first_loss
from pytest_dnnbench.rank.workloads.workload import Batch, Workload


def own_arithmetic(
    workload: Workload,
    model: nn.Module,
    batch: Batch,
    precision: str,
    autocast: Callable[[], AbstractContextManager[object]],
) -> Arithmetic:
    """The coarsest arithmetic of a forward pass: that of the case's precision, and of whatever the
    forward makes or casts to. In training mode a backward pass follows, whose gradients are
    checked.

    The batch is in the types of the workload. Buffers stay as they are. Raises UsageError for a
    loss that is not one finite number or has no gradient to train by, and for a model that calls a
    collective or has sparse gradients.
    """
    held = Buffers(model)
    before = held.copies()
    with torch.set_grad_enabled(model.training), LoneForward():
        with TypesUsed() as used, autocast():
            loss = checked_loss(workload, first_loss(workload, model, batch))
        if model.training and not loss.requires_grad:
            raise UsageError(
                f"{type(workload).__name__}.loss has no gradient, so nothing can be trained: let it"
                " come from the model's output, undetached, and let the model have parameters"
            )
        if model.training:
            loss.backward()  # type: ignore[no-untyped-call] # torch's gap
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            check_gradient(name, parameter.grad)
            parameter.grad = None
    held.put(before)
    return coarsest({torch.float32, *used.types}, precision)
