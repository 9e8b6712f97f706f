"""The arithmetic that a user's own model computes in when it is timed, found by a pass of it in one
process."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pytest_dnnbench.rank.buffers import Buffers
from pytest_dnnbench.rank.data import Batch
from pytest_dnnbench.rank.lone_forward import LoneForward, check_gradient, logits_of
from pytest_dnnbench.rank.rounding import Arithmetic, TypesUsed, coarsest


def own_arithmetic(
    model: nn.Module,
    batch: Batch,
    precision: str,
    autocast: Callable[[], AbstractContextManager[object]],
) -> Arithmetic:
    """The coarsest arithmetic of a forward pass: that of the case's precision, and of whatever the
    forward makes or casts to. In training mode a backward pass follows, whose gradients are
    checked.

    The images are float32. Buffers stay as they are. Raises UsageError for a model that returns
    anything but logits, calls a collective or has sparse gradients.
    """
    images, labels = batch
    held = Buffers(model)
    before = held.copies()
    with torch.set_grad_enabled(model.training), LoneForward():
        with TypesUsed() as used, autocast():
            loss = cross_entropy(logits_of(model(images)), labels)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call] # torch's gap
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            check_gradient(name, parameter.grad)
            parameter.grad = None
    held.put(before)
    return coarsest({torch.float32, *used.types}, precision)
