"""Memory: what the replicas of a stage hold at their fullest.

What lives here: the bytes of a stage from the versions it keeps, for all stages at once and for a
given plan. A replica holds, for each minibatch that it has forwarded and not yet taken back, its
version of the weights, its activations and the input they were made from; and once, the gradient
and the momentum of its parameters. The model's own input is not counted: a profile does not say its
size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_dnnbench.planner.blocks import Block
from pytest_dnnbench.planner.states import Floats, States
from pytest_dnnbench.planner.warmup import warmup_counts

# The gradient and the momentum of SGD, each as large as the parameters.
COPIES_BESIDE_WEIGHTS = 2


@dataclass(frozen=True, slots=True)
class StageMemory:
    """Bytes as n x n tables: `per_version` for each version that a replica keeps, `once` beside
    them."""

    per_version: Floats
    once: Floats


def stage_memory(states: States) -> StageMemory:
    parameter_bytes = states.between(states.parameter_bytes)
    held = states.between(states.activation_bytes) + states.sent_bytes[:, None]
    return StageMemory(parameter_bytes + held, COPIES_BESIDE_WEIGHTS * parameter_bytes)


def memory_of(states: States, stages: Sequence[Block]) -> tuple[float, ...]:
    """Bytes of one replica of each stage of a pipeline, given flat stages in order."""
    counts = warmup_counts([stage.replicas for stage in stages])
    return tuple(
        _bytes(states, stage.start, stage.end, count + 1)
        for stage, count in zip(stages, counts, strict=True)
    )


def _bytes(states: States, start: int, end: int, kept: int) -> float:
    parameters = states.parameter_bytes[end] - states.parameter_bytes[start]
    activations = states.activation_bytes[end] - states.activation_bytes[start]
    per_version = parameters + (activations + states.sent_bytes[start])
    return float(kept * per_version + COPIES_BESIDE_WEIGHTS * parameters)
