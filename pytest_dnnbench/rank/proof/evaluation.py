"""A pass of a model without gradients in one process, and how far rounding moves its outputs."""

from typing import Any

import torch
from torch import nn

from pytest_dnnbench.rank.proof.arithmetic import FLOAT64, Arithmetic
from pytest_dnnbench.rank.proof.distance import Errors, Tensors
from pytest_dnnbench.rank.proof.lone_forward import LoneForward, outputs_of
from pytest_dnnbench.rank.proof.rounding import (
    EveryOperatorRounds,
    bounds_of,
    distances,
    moved_weights,
)
from pytest_dnnbench.rank.workloads.workload import Workload


def evaluated(workload: Workload, model: nn.Module, inputs: Any, train: bool = False) -> Tensors:
    """A model's outputs in evaluation mode or in training mode, by name, without gradients."""
    with torch.no_grad(), LoneForward():
        return outputs_of(workload, workload.forward(model.train(train), inputs))


def evaluation_bounds(
    workload: Workload,
    model: nn.Module,
    inputs: Any,
    outputs: Tensors,
    arithmetic: Arithmetic = FLOAT64,
    train: bool = False,
) -> Errors:
    """How far rounding in an arithmetic may move these outputs of `evaluated`."""
    rounds = EveryOperatorRounds(arithmetic)
    near = rounds.moved(inputs)
    with moved_weights(model, rounds, {}), rounds:
        moved = evaluated(workload, model, near, train)
    return bounds_of(distances(moved, outputs, arithmetic), outputs, arithmetic)
