"""The step of sharded data parallelism, as `fully_shard` (FSDP2) runs it: Zhao et al., "PyTorch
FSDP", VLDB 2023, section 3.3; the idea is that of ZeRO (Rajbhandari et al., SC 2020).

The weights are in units: the model's blocks, and the root with the rest. G gathers the weights of a
unit before it runs, R reduces and scatters its gradients; one link carries both, in this order:

    compute  .  root F1 F2 F3 | B3 B2 B1 .
    link     G0 G1 G2 G3  ....  G2 R3 G1 R2 R1 R0      G3 again: during the forward pass of 3

What bounds how far G runs ahead is torch's rule for the buffers: of the forward pass, G of a unit
waits until the unit two before it has begun; of the backward pass, until the unit after it has. A
unit's backward pass ends when R of the unit after it has, because there is one buffer for R. The
root stays whole between the passes unless it is resharded too. Read from
torch/distributed/fsdp/_fully_shard (torch 2.13): `wait_for_unshard`, `_backward_prefetch`,
`post_backward`.

Not here: what a collective costs (fabric.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pytest_dnnbench.planner.data_parallel import StepTime
from pytest_dnnbench.planner.fabric import CollectiveCost
from pytest_dnnbench.planner.profile import Operator, Profile

ROOT = ""
"""The unit of all weights that no block has."""

Reshard = Literal["auto", "yes", "no"]
"""Which units are freed after the forward pass: all but the root, all, none."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Operators of one unit that follow each other: seconds of their passes."""

    unit: str
    forward_s: float
    backward_s: float


@dataclass(frozen=True, slots=True)
class Units:
    """A model in units: its segments in the order of the forward pass, and the bytes of weights of
    each unit."""

    segments: tuple[Segment, ...]
    parameter_bytes: Mapping[str, float]

    @property
    def blocks(self) -> list[str]:
        """The units without the root, in the order of the forward pass."""
        return [unit for unit in dict.fromkeys(each.unit for each in self.segments) if unit != ROOT]

    @property
    def root_bytes(self) -> float:
        """Weights that no block has."""
        return self.parameter_bytes.get(ROOT, 0.0)

    @property
    def largest_bytes(self) -> float:
        """Weights of the largest block."""
        return max((self.parameter_bytes[block] for block in self.blocks), default=0.0)


def units_of(profile: Profile) -> Units:
    """The blocks of a profile, by its metadata's `blocks`: the block of each operator with weights.
    A profile that names none has a block for each operator with weights. An operator without
    weights runs with the one before it."""
    named = profile.metadata.get("blocks")
    blocks: Mapping[str, str] | None = named if isinstance(named, Mapping) else None
    segments: list[Segment] = []
    parameter_bytes: dict[str, float] = {}
    unit = ROOT
    for operator in profile.in_topological_order():
        if operator.parameter_bytes:
            unit = str(blocks.get(operator.id, ROOT)) if blocks is not None else operator.id
            parameter_bytes[unit] = parameter_bytes.get(unit, 0.0) + operator.parameter_bytes
        _add(segments, unit, operator)
    return Units(tuple(segments), parameter_bytes)


def _add(segments: list[Segment], unit: str, operator: Operator) -> None:
    if segments and segments[-1].unit == unit:
        before = segments.pop()
        segments.append(
            Segment(
                unit, before.forward_s + operator.forward_s, before.backward_s + operator.backward_s
            )
        )
    else:
        segments.append(Segment(unit, operator.forward_s, operator.backward_s))


def sharded_step(
    units: Units,
    gather: CollectiveCost,
    scatter: CollectiveCost,
    *,
    update_s: float = 0.0,
    reshard: Reshard = "auto",
) -> StepTime:
    """One step of every rank on a minibatch of its own; `update_s` is that of a rank's part of the
    weights. `gather` and `scatter` are what an all-gather and a reduce-scatter cost."""
    compute_s = sum(each.forward_s + each.backward_s for each in units.segments)
    timeline = _Timeline(units, gather, scatter, reshard)
    timeline.forward()
    timeline.backward()
    return StepTime(compute_s, timeline.end_s - compute_s, update_s)


def _is_freed(unit: str, reshard: Reshard) -> bool:
    """After the forward pass."""
    return reshard == "yes" or (reshard == "auto" and unit != ROOT)


class _Timeline:
    """Plays one step. `compute_s` and `link_s`: since when each is free."""

    def __init__(
        self, units: Units, gather: CollectiveCost, scatter: CollectiveCost, reshard: Reshard
    ) -> None:
        self.units, self.gather, self.scatter, self.reshard = units, gather, scatter, reshard
        self.compute_s = self.link_s = 0.0
        self.begun_s: list[float] = []  # the forward passes of the units, in order

    @property
    def end_s(self) -> float:
        """When compute and link are done."""
        return max(self.compute_s, self.link_s)

    def forward(self) -> None:
        """All forward passes."""
        self._begin(ROOT)
        begun = {ROOT}
        for segment in self.units.segments:
            if segment.unit not in begun:
                begun.add(segment.unit)
                self._begin(segment.unit)
            self.compute_s += segment.forward_s

    def _begin(self, unit: str) -> None:
        may_start_s = self.begun_s[-2] if len(self.begun_s) > 1 else 0.0
        self.compute_s = max(self.compute_s, self._gathered(unit, may_start_s))
        self.begun_s.append(self.compute_s)

    def backward(self) -> None:
        """All backward passes."""
        segments = self.units.segments[::-1]
        last_of = {segment.unit: place for place, segment in enumerate(segments)}
        coming = [unit for unit in last_of if unit != ROOT]
        arrived_s: dict[str, float] = {}
        if _is_freed(ROOT, self.reshard):
            self.compute_s = max(self.compute_s, self._gathered(ROOT, self.begun_s[-1]))
        if coming:
            arrived_s[coming[0]] = self._gathered_again(coming[0], self.begun_s[-1])
        reduced_s = 0.0
        for place, segment in enumerate(segments):
            if coming and segment.unit == coming[0]:
                coming.pop(0)
                self.compute_s = max(self.compute_s, arrived_s[segment.unit])
                if coming:
                    arrived_s[coming[0]] = self._gathered_again(coming[0], self.compute_s)
            self.compute_s += segment.backward_s
            if last_of[segment.unit] == place and segment.unit != ROOT:
                self.compute_s = max(self.compute_s, reduced_s)
                reduced_s = self._reduced(segment.unit)
        self._reduced(ROOT)

    def _gathered_again(self, unit: str, may_start_s: float) -> float:
        return self._gathered(unit, may_start_s) if _is_freed(unit, self.reshard) else 0.0

    def _gathered(self, unit: str, may_start_s: float) -> float:
        """When the weights of a unit are whole."""
        return self._sent(self.gather, unit, may_start_s)

    def _reduced(self, unit: str) -> float:
        """When the gradients of a unit are averaged."""
        return self._sent(self.scatter, unit, self.compute_s)

    def _sent(self, cost: CollectiveCost, unit: str, may_start_s: float) -> float:
        size = self.units.parameter_bytes.get(unit, 0.0)
        if size:
            self.link_s = max(self.link_s, may_start_s) + cost.seconds(size)
        return self.link_s if size else 0.0
