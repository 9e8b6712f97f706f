"""A plan as the search finds it, stages within nodes within racks, and its flat stages.

What lives here: the nested record, and the reduction to the stages that a runtime starts. Not here:
what a stage costs (corrected.py), and the levels that it is made for (levels.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NestedStage:
    """The stretch between two states, on `replicas` units of a level. `inner` splits it within each
    unit."""

    start: int
    end: int
    replicas: int
    inner: tuple["NestedStage", ...] = ()


def flat_stages(stages: Sequence[NestedStage], replicas: int = 1) -> tuple[NestedStage, ...]:
    """The innermost stages in order, each with its number of replicas over all units."""
    flat: list[NestedStage] = []
    for stage in stages:
        in_all = replicas * stage.replicas
        if stage.inner:
            flat += flat_stages(stage.inner, in_all)
        else:
            flat.append(NestedStage(stage.start, stage.end, in_all))
    return tuple(flat)
