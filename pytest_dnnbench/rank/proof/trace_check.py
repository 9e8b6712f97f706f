"""What a trace loses: the traced stages beside the user's own model, in one process, as it is
timed.

A trace keeps operators. It loses what the forward does around them: `torch.autocast`, work of the
host, a sleep. (A lost `torch.no_grad` shows in the proof's gradients.) Three rules:

- the stages compute in the same number types as the model;
- their outputs agree with the model's within the rounding of those types;
- the host does not wait: the model's own forward may take LONGER times that of the stages, or
  UNNOTICED of the step that the plan predicts, whichever is more. The ratio is recorded.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.rank.buffers import Buffers
from pytest_dnnbench.rank.core_clock import seconds_beside_waiting
from pytest_dnnbench.rank.profiling.example_input import Forward
from pytest_dnnbench.rank.proof.arithmetic import Arithmetic, TypesUsed, coarsest
from pytest_dnnbench.rank.proof.comparison import Comparison
from pytest_dnnbench.rank.proof.distance import same
from pytest_dnnbench.rank.proof.lone_forward import LoneForward
from pytest_dnnbench.rank.proof.rounding import (
    EveryOperatorRounds,
    bounds_of,
    moved_by,
    moved_weights,
)
from pytest_dnnbench.rank.workloads.structure import tensors_of
from pytest_dnnbench.rank.workloads.workload import called

LONGER = 2.0
"""Times that the untraced forward may take. Calls of modules that a trace saves are a few
microseconds each: a ratio of 1.0 to 1.3 for small models."""

UNNOTICED = 0.25
"""Part of the predicted step that the forward may take longer without a word."""

REPETITIONS = 3
PATIENT_REPETITIONS = 10
"""Forward passes of each side, taken in turn, of which the fastest counts, without its waiting for
a core: other work on the cores only ever adds. What looks wrong is measured again before it is
believed."""


def _passed(
    holder: nn.Module,
    forward: Callable[[Any], object],
    inputs: Any,
    autocast: Callable[[], AbstractContextManager[object]],
) -> tuple[dict[str, torch.Tensor], set[torch.dtype]]:
    """The outputs of a pass by name, and the types that it computes in."""
    held = Buffers(holder)
    before = held.copies()
    with torch.no_grad(), LoneForward(), TypesUsed() as used, autocast():
        outputs = _named(forward(inputs))
    held.put(before)
    return outputs, {kind for kind in used.types if kind.is_floating_point or kind.is_complex}


class TraceCheck:
    """A model beside its stages, both on one device, in the types that are timed. `forward` is how
    the model is called."""

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[nn.Module],
        inputs: Any,
        autocast: Callable[[], AbstractContextManager[object]],
        forward: Forward = called,
    ) -> None:
        self._autocast = autocast
        row = tuple(tensors_of(inputs))
        self._sides = _Sides(model, _InTurn(stages), partial(forward, model), inputs, row)

    def check_computation(self, precision: str) -> None:
        """Compares number types and outputs. Raises WrongResult where they differ."""
        sides, autocast = self._sides, self._autocast
        expected, types = _passed(sides.model, sides.forward, sides.inputs, autocast)
        got, types_of_stages = _passed(sides.together, sides.together, sides.row, autocast)
        if types != types_of_stages:
            names = [
                ", ".join(sorted(str(each).split(".")[1] for each in part))
                for part in (types, types_of_stages)
            ]
            raise WrongResult(
                f"the model computes in {names[0]}, and its traced stages in {names[1]}: the trace"
                f" lost an autocast or a cast in the forward; {REMEDY}"
            )
        _check_outputs(sides, expected, got, coarsest(types, precision), autocast)

    def check_time(self, predicted_step_s: float) -> float:
        """The time of the model's forward pass over that of its stages. Raises WrongResult where
        the host waits in the model alone."""
        ratio, longer_s = _times(self._sides, self._autocast, REPETITIONS)
        if _is_lost(ratio, longer_s, predicted_step_s):
            ratio, longer_s = _times(self._sides, self._autocast, PATIENT_REPETITIONS)
        if _is_lost(ratio, longer_s, predicted_step_s):
            raise WrongResult(
                f"the model's forward takes {longer_s * 1e3:.1f} ms longer than its traced stages"
                f" ({ratio:.1f} times as long): it does work on the host that the trace lost, so"
                f" the pipeline would seem faster than it is; {REMEDY}"
            )
        return ratio


REMEDY = (
    "mark the block that does it as a leaf (`pipeline_leaf = True` in its class), which is called"
    " as it is, or take it out of the forward"
)


def _is_lost(ratio: float, longer_s: float, predicted_step_s: float) -> bool:
    return ratio > LONGER and longer_s > UNNOTICED * predicted_step_s


class _InTurn(nn.Module):
    """Stages one after the other."""

    def __init__(self, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, row: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The tensors of the output, for those of the inputs."""
        for stage in self.stages:
            row = stage(*row)
        return row


@dataclass(frozen=True, slots=True)
class _Sides:
    """The model and its stages: how each is called, and with what."""

    model: nn.Module
    together: _InTurn
    forward: Callable[[Any], object]
    inputs: Any
    row: tuple[torch.Tensor, ...]


def _named(outputs: object) -> dict[str, torch.Tensor]:
    """The tensors of an output; of whole numbers or truth values, as floating-point numbers, which
    compare."""
    tensors = list(tensors_of(outputs))
    names = ["output"] if len(tensors) == 1 else [f"output {n}" for n in range(len(tensors))]
    return {
        name: each if each.is_floating_point() or each.is_complex() else each.double()
        for name, each in zip(names, tensors, strict=True)
    }


def _check_outputs(
    sides: _Sides,
    expected: dict[str, torch.Tensor],
    got: dict[str, torch.Tensor],
    arithmetic: Arithmetic,
    autocast: Callable[[], AbstractContextManager[object]],
) -> None:
    if expected.keys() == got.keys() and all(same(got[name], expected[name]) for name in expected):
        return  # No bound is narrower.
    held = Buffers(sides.model)
    before = held.copies()
    rounds = EveryOperatorRounds(arithmetic)
    moved_inputs = rounds.moved(sides.inputs)
    with (
        torch.no_grad(),
        LoneForward(),
        autocast(),
        moved_weights(sides.model, rounds, {}),
        rounds,
    ):
        moved = _named(sides.forward(moved_inputs))
    held.put(before)
    errors = {name: moved_by(moved[name], tensor, arithmetic) for name, tensor in expected.items()}
    comparison = Comparison()
    comparison.add(
        "outputs", got, expected, bounds_of(errors, expected, arithmetic), "the traced stages"
    )
    if comparison.failures:
        raise WrongResult(
            f"{comparison.failures[0]} from those of the model itself: the trace lost or fixed"
            f" something that the forward does; {REMEDY}"
        )


def _times(
    sides: _Sides,
    autocast: Callable[[], AbstractContextManager[object]],
    repetitions: int,
) -> tuple[float, float]:
    """The fastest forward of the model over that of the stages, and the difference in seconds."""
    held = [Buffers(sides.model), Buffers(sides.together)]
    before = [each.copies() for each in held]
    fastest = [float("inf")] * 2
    with torch.no_grad(), autocast():
        sides.together(sides.row)  # the first pass of all loads kernels
        device = sides.row[0].device
        for _ in range(repetitions):
            fastest[0] = min(fastest[0], _seconds(sides.forward, sides.inputs, device))
            fastest[1] = min(fastest[1], _seconds(sides.together, sides.row, device))
    for each, values in zip(held, before, strict=True):
        each.put(values)
    return fastest[0] / fastest[1], fastest[0] - fastest[1]


def _seconds(forward: Callable[[Any], object], inputs: Any, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = seconds_beside_waiting()
    forward(inputs)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return seconds_beside_waiting() - start
