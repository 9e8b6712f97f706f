"""In which order the ranks of a pipeline on a V make their passes. A rank has a stage on the way
down and one on the way back up; P = 2, M = 4, `zbv`:

    rank 0   0F0 0F1 0F2 3F0 3I0 3W0 3F1 3I1 3W1 0F3 0I0 0W0 ...
    rank 1   1F0 2F0 1F1 2F1 2I0 2W0 2F2 ...

A rank has as many forward passes ahead as it takes until gradients can reach it. Sources: zero
bubbles on a V, Qi et al., ICLR 2024; DualPipeV, DeepSeek-AI, 2025; both as
torch.distributed.pipelining runs them. Not here: orders in which stages lie in a loop (orders.py).
"""

from collections import Counter

from pytest_dnnbench.planner.bubbles import Kind, Pass
from pytest_dnnbench.planner.synchronous import Pipelines


class _Order:
    """The passes of a rank, as they are written down: each of the next microbatch of its stage."""

    def __init__(self) -> None:
        self.passes: list[Pass] = []
        self._begun: Counter[tuple[int, bool]] = Counter()
        self._without_weights: list[tuple[int, int]] = []

    def add(self, stage: int, kind: Kind) -> None:
        """A forward pass, a whole backward pass, or one for the inputs alone."""
        microbatch = self._begun[stage, kind == "F"]
        self._begun[stage, kind == "F"] += 1
        self.passes.append(Pass(stage, kind, microbatch))
        if kind == "I":
            self._without_weights.append((stage, microbatch))

    def add_weights(self, *stages: int) -> None:
        """The gradients of weights that have waited longest in these stages, if any do."""
        for place, (stage, microbatch) in enumerate(self._without_weights):
            if stage in stages:
                self.passes.append(Pass(stage, "W", microbatch))
                del self._without_weights[place]
                return

    def add_halves(self, stage: int) -> None:
        """A backward pass in two halves, one after the other."""
        self.add(stage, "I")
        self.add_weights(stage)


def zero_bubble_v(pipelines: Pipelines, rank: int) -> list[Pass]:
    """Every backward pass in two. In the end, gradients of weights fill what would be a bubble."""
    ranks, count = pipelines.ranks, pipelines.microbatches_of_each
    down, up = pipelines.stages_of(rank)
    order = _Order()
    for _ in range(2 * (ranks - rank) - 1):
        order.add(down, "F")
    for _ in range(rank):
        order.add(up, "F")
        order.add(down, "F")
    for _ in range(ranks - rank):
        order.add(up, "F")
        order.add_halves(up)
    # The rule is for so many at least: of fewer, the others' places stay empty.
    planned = max(2 * ranks - 1, count)
    begun = 2 * ranks - 1 - rank
    for number in range(planned - ranks):
        if begun + number < planned:
            order.add(down, "F")
        order.add_halves(down)
        order.add(up, "F")
        order.add_halves(up)
    for _ in range(rank):
        order.add(down, "I")
        order.add(up, "I")
    for _ in range(ranks - rank):
        order.add(down, "I")
        order.add_weights(down)
    for stage in (up, down):
        for _ in range(rank):
            order.add_weights(stage)
    return [each for each in order.passes if each.microbatch < count]


def dual_pipe_v(pipelines: Pipelines, rank: int) -> list[Pass]:
    """Forwards of one way and backwards of the other in turn; backward passes are in two where that
    lets the other ranks go on earlier."""
    later, count = pipelines.ranks - 1 - rank, pipelines.microbatches_of_each
    down, up = pipelines.stages_of(rank)
    order = _Order()
    for _ in range(2 * later):
        order.add(down, "F")
    for _ in range(rank + 1):
        order.add(down, "F")
        order.add(up, "F")
    for _ in range(later):
        order.add_halves(up)
        order.add(up, "F")
    for _ in range(count - 2 * pipelines.ranks + rank + 1):
        order.add(down, "F")
        order.add(up, "B")
        order.add(up, "F")
        order.add(down, "B")
    for _ in range(later):
        order.add(up, "B")
        order.add(up, "F")
        order.add(down, "B")
    _drain(order, down, up, rank, later)
    return order.passes


def _drain(order: _Order, down: int, up: int, rank: int, later: int) -> None:
    """The last backward passes: whole ones first; in two from the middle on, of an odd rank half a
    turn earlier."""
    kinds: list[Kind] = ["B"] * (2 * ((rank + 1) // 2) + 1 - rank % 2)
    kinds += ["I"] * (2 * (rank + 1) - len(kinds))
    for number, kind in enumerate(kinds):
        order.add(down if number % 2 else up, kind)
    for _ in range(later):
        order.add_weights(down, up)
        order.add(down, "I")
    for _ in range(rank + 1):
        order.add_weights(down, up)
