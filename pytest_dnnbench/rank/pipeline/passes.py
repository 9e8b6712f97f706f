"""The passes that a rank makes under one of torch's schedules, noted as they come: their order, and
how long each takes on the device's own time line.

torch calls the passes of a stage by these methods in every schedule, so the order here is the
schedule's own, whatever lists torch keeps of it. Not here: what the order costs
(planner/bubbles.py).
"""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.distributed.pipelining import PipelineStage

from pytest_dnnbench.planner.bubbles import Kind, Pass
from pytest_dnnbench.rank.pipeline.occupancy import Occupancy

Row = tuple[torch.Tensor, ...]


class Passes:
    """All passes of one rank, step by step. `step` is the step that is running; steps count from 0
    at the restart."""

    def __init__(self, device: torch.device) -> None:
        self.occupancy = Occupancy(device)
        self.step = 0
        self._noted: list[tuple[int, Pass, Any, Any]] = []

    def restart(self) -> None:
        """Forgets all passes."""
        self.occupancy.restart()
        self._noted.clear()
        self.step = 0

    @contextmanager
    def noting(self, stage: int, kind: Kind, microbatch: int) -> Iterator[None]:
        """Notes what runs in a `with` as one pass."""
        start = self.occupancy.mark()
        yield
        stop = self.occupancy.add(self.step, start)
        self._noted.append((self.step, Pass(stage, kind, microbatch), start, stop))

    def order(self) -> list[Pass]:
        """The passes of the last step."""
        last = max((step for step, *_ in self._noted), default=0)
        return [each for step, each, *_ in self._noted if step == last]

    def seconds(self, steps: range) -> dict[tuple[int, str], float]:
        """The median time of a pass in these steps, by stage and kind."""
        chosen = [noted for noted in self._noted if noted[0] in steps]
        lengths = self.occupancy.lengths([(start, stop) for _, _, start, stop in chosen])
        by_kind: dict[tuple[int, str], list[float]] = {}
        for (_, each, _, _), length in zip(chosen, lengths, strict=True):
            by_kind.setdefault((each.stage, each.kind), []).append(length)
        return {kind: statistics.median(times) for kind, times in by_kind.items()}


@dataclass(slots=True)
class Waiting:
    """The microbatches of one update, in their order: the tensors of their inputs, where this rank
    has the first stage; their targets and samples, where it has the last; by number, what the last
    stage makes of each in a validation."""

    inputs: list[Row] = field(default_factory=list)
    targets: list[Any] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    outputs: dict[int, Row] = field(default_factory=dict)

    def clear(self) -> None:
        """Gives up the microbatches."""
        for each in (self.inputs, self.targets, self.samples, self.outputs):
            each.clear()


class NotedStage(PipelineStage):
    """A stage of torch's that notes its passes. The compute alone is in an interval: torch waits
    for messages before it calls these. The first stage takes the inputs that wait."""

    def __init__(self, passes: Passes, waiting: Waiting, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._passes = passes
        self._waiting = waiting

    def forward_one_chunk(
        self, fwd_chunk_id: int, args: tuple[Any, ...], *arguments: Any, **settings: Any
    ) -> Any:
        """Torch's forward pass of a microbatch."""
        entering = self._waiting.inputs[fwd_chunk_id] if self.is_first else args
        with self._passes.noting(self.stage_index, "F", fwd_chunk_id):
            outputs = super().forward_one_chunk(fwd_chunk_id, entering, *arguments, **settings)
        if self.is_last and not self.has_backward:
            self._waiting.outputs[fwd_chunk_id] = outputs
        return outputs

    def backward_one_chunk(
        self,
        bwd_chunk_id: int,
        loss: torch.Tensor | None = None,
        full_backward: bool = True,
        last_backward: bool = False,
    ) -> Any:
        """Torch's backward pass of a microbatch, or the first half of it."""
        if not self.has_backward:
            return None
        with self._passes.noting(self.stage_index, "B" if full_backward else "I", bwd_chunk_id):
            return super().backward_one_chunk(bwd_chunk_id, loss, full_backward, last_backward)

    def backward_weight_one_chunk(self, bwd_chunk_id: int, last_backward: bool = False) -> Any:
        """The second half of torch's backward pass."""
        if not self.has_backward:
            return None
        with self._passes.noting(self.stage_index, "W", bwd_chunk_id):
            return super().backward_weight_one_chunk(bwd_chunk_id, last_backward)

    def get_local_bwd_output(self, mb_index: int) -> Any:
        """The gradients for the stage before on the same rank; in a validation, where torch would
        raise, none."""
        if not self.has_backward:
            return ()
        return super().get_local_bwd_output(mb_index)  # type: ignore[no-untyped-call] # torch's gap

    def set_local_bwd_input(self, next_stage_bwd_outputs: Any, mb_index: int) -> None:
        """Takes what the stage after on the same rank gives by the method above."""
        if self.has_backward:
            super().set_local_bwd_input(next_stage_bwd_outputs, mb_index)
