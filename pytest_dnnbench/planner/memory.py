"""Memory: how many bytes a replica of a stage holds at its fullest.

What lives here: the bytes of a stage from the versions that it keeps, for all stages at once and
for a given plan. For each minibatch between its forward and its backward pass, a replica holds the
version of the weights, the activations, and the input that they were made from. It holds the
gradient and the momentum of its parameters once. The model's own inputs count where a stage has
them from the stage before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_dnnbench.planner.in_flight import warmup_counts
from pytest_dnnbench.planner.nested_stages import NestedStage
from pytest_dnnbench.planner.states import Floats, States

COPIES_BESIDE_WEIGHTS = 2
"""The gradient and the momentum of SGD, each as large as the parameters."""


@dataclass(frozen=True, slots=True)
class StageMemory:
    """Bytes of a replica as n x n tables: `per_version` for each version that it keeps, and `once`
    on top."""

    per_version: Floats
    once: Floats


def stage_memory(states: States) -> StageMemory:
    """The memory of every stage."""
    parameter_bytes = states.between(states.parameter_bytes)
    held = states.between(states.activation_bytes) + states.sent_bytes[:, None]
    return StageMemory(parameter_bytes + held, COPIES_BESIDE_WEIGHTS * parameter_bytes)


def memory_of(states: States, stages: Sequence[NestedStage]) -> tuple[float, ...]:
    """Bytes of one replica of each stage of a pipeline. `stages` are flat and in order."""
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
