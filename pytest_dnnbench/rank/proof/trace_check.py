"""What a trace loses: the traced stages beside the user's own model, on one rank, as it is timed.

A trace keeps operators. It loses what the forward does around them: `torch.autocast`, work of the
host, a sleep. (A lost `torch.no_grad` shows in the proof's gradients.) Three rules:

- the stages compute in the same number types as the model;
- their outputs agree with the model's within the rounding of those types;
- the host does not wait: the model's own forward may take LONGER times that of the stages, or
  UNNOTICED of the step that the plan predicts, whichever is more. The ratio is recorded.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import nn

from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.rank.buffers import Buffers
from pytest_dnnbench.rank.core_clock import seconds_beside_waiting
from pytest_dnnbench.rank.proof.arithmetic import Arithmetic, TypesUsed, coarsest
from pytest_dnnbench.rank.proof.comparison import Comparison
from pytest_dnnbench.rank.proof.lone_forward import LoneForward, logits_of
from pytest_dnnbench.rank.proof.rounding import (
    EveryOperatorRounds,
    bounds_of,
    moved_by,
    moved_weights,
)

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
    images: torch.Tensor,
    autocast: Callable[[], AbstractContextManager[object]],
) -> tuple[torch.Tensor, set[torch.dtype]]:
    """The logits of a pass, and the types that it computes in."""
    held = Buffers(holder)
    before = held.copies()
    with torch.no_grad(), LoneForward(), TypesUsed() as used, autocast():
        logits = logits_of(holder(images))
    held.put(before)
    return logits, {kind for kind in used.types if kind.is_floating_point or kind.is_complex}


def check_trace(
    model: nn.Module,
    stages: Sequence[nn.Module],
    images: torch.Tensor,
    precision: str,
    autocast: Callable[[], AbstractContextManager[object]],
    predicted_step_s: float,
) -> float:
    """The time of the model's forward pass over that of its stages. Raises WrongResult where one of
    the rules is broken. All arguments are on one device, in the types that are timed."""
    together = _InTurn(stages)
    expected, types = _passed(model, images, autocast)
    got, types_of_stages = _passed(together, images, autocast)
    if types != types_of_stages:
        names = [
            ", ".join(sorted(str(each).split(".")[1] for each in part))
            for part in (types, types_of_stages)
        ]
        raise WrongResult(
            f"the model computes in {names[0]}, and its traced stages in {names[1]}: the trace lost"
            f" an autocast or a cast in the forward; {REMEDY}"
        )
    _check_outputs(model, images, expected, got, coarsest(types, precision), autocast)
    ratio, longer_s = _times(model, together, images, autocast, REPETITIONS)
    if _is_lost(ratio, longer_s, predicted_step_s):
        ratio, longer_s = _times(model, together, images, autocast, PATIENT_REPETITIONS)
    if _is_lost(ratio, longer_s, predicted_step_s):
        raise WrongResult(
            f"the model's forward takes {longer_s * 1e3:.1f} ms longer than its traced stages"
            f" ({ratio:.1f} times as long): it does work on the host that the trace lost, so the"
            f" pipeline would seem faster than it is; {REMEDY}"
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

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The logits."""
        values: tuple[torch.Tensor, ...] = (images,)
        for stage in self.stages:
            values = stage(*values)
        return values[0]


def _check_outputs(
    model: nn.Module,
    images: torch.Tensor,
    logits: torch.Tensor,
    logits_of_stages: torch.Tensor,
    arithmetic: Arithmetic,
    autocast: Callable[[], AbstractContextManager[object]],
) -> None:
    held = Buffers(model)
    before = held.copies()
    rounds, moved_images = EveryOperatorRounds(arithmetic), images.clone()
    rounds.move(moved_images)
    with torch.no_grad(), LoneForward(), autocast(), moved_weights(model, rounds, {}), rounds:
        moved = model(moved_images)
    held.put(before)
    expected, got = {"logits": logits}, {"logits": logits_of_stages}
    errors = {"logits": moved_by(moved, logits, arithmetic)}
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
    model: nn.Module,
    together: nn.Module,
    images: torch.Tensor,
    autocast: Callable[[], AbstractContextManager[object]],
    repetitions: int,
) -> tuple[float, float]:
    """The fastest forward of the model over that of the stages, and the difference in seconds."""
    held = [Buffers(model), Buffers(together)]
    before = [each.copies() for each in held]
    fastest = [float("inf")] * 2
    with torch.no_grad(), autocast():
        together(images)  # the first pass of all loads kernels
        for _ in range(repetitions):
            for side, forward in enumerate((model, together)):
                fastest[side] = min(fastest[side], _seconds(forward, images))
    for each, values in zip(held, before, strict=True):
        each.put(values)
    return fastest[0] / fastest[1], fastest[0] - fastest[1]


def _seconds(forward: Callable[[torch.Tensor], object], images: torch.Tensor) -> float:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    start = seconds_beside_waiting()
    forward(images)
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return seconds_beside_waiting() - start
