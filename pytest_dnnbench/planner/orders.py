"""In which order the ranks of a pipeline make their passes, under each of torch's schedules and
under `pipedream-flush`. P ranks, v stages on each, M microbatches; P = 3, v = 1, M = 3:

    gpipe   rank 0  F0 F1 F2 .  .  .  .  B0 B1 B2      1f1b   rank 0  F0 F1 F2 .  .  B0 B1 B2
            rank 1  .  F0 F1 F2 .  .  B0 B1 B2 .              rank 1  .  F0 F1 .  B0 F2 B1 .  B2
            rank 2  .  .  F0 F1 F2 B0 B1 B2 .  .              rank 2  .  .  F0 B0 F1 B1 F2 B2

Sources: as in synchronous.py. Not here: the rules of the schedules on a V (v_orders.py); how long
an order takes (bubbles.py).
"""

from collections.abc import Callable, Mapping

from pytest_dnnbench.planner.bubbles import Kind, Pass
from pytest_dnnbench.planner.schedule import Backward, Forward, Schedule
from pytest_dnnbench.planner.synchronous import Pipelines
from pytest_dnnbench.planner.v_orders import dual_pipe_v, zero_bubble_v


def _all_forwards_first(pipelines: Pipelines, rank: int) -> list[Pass]:
    stages, count = pipelines.stages_of(rank), pipelines.microbatches_of_each
    forwards = [Pass(stage, "F", m) for stage in stages for m in range(count)]
    return forwards + [Pass(stage, "B", m) for stage in stages for m in range(count)]


def _breadth_first(pipelines: Pipelines, rank: int) -> list[Pass]:
    """Stage after stage, each with all microbatches; the newest microbatch goes back first."""
    stages, count = pipelines.stages_of(rank), pipelines.microbatches_of_each
    forwards = [Pass(stage, "F", m) for stage in stages for m in range(count)]
    return forwards + [
        Pass(stage, "B", m) for stage in reversed(stages) for m in reversed(range(count))
    ]


def _in_turn(pipelines: Pipelines, rank: int) -> list[Pass]:
    """Forwards until the first gradients can come, then one forward and one backward in turn."""
    each, hops = pipelines.stages_per_rank, pipelines.ranks - 1 - rank
    rounds_ahead = (each - 1) * _in_round(pipelines)
    return _alternating(pipelines, rank, rounds_ahead + (hops if each == 1 else 2 * hops))


def _zero_bubble(pipelines: Pipelines, rank: int) -> list[Pass]:
    """In turn, each backward pass in two: the gradients of the weights come one after each of the
    inputs, but from as many microbatches ago as there are ranks before this one."""
    ahead = (pipelines.stages_per_rank - 1) * _in_round(pipelines) + pipelines.ranks - 1 - rank
    order: list[Pass] = []
    waiting: list[Pass] = []
    for each in _alternating(pipelines, rank, ahead):
        if each.kind == "F":
            order.append(each)
            continue
        order.append(Pass(each.stage, "I", each.microbatch))
        waiting.append(Pass(each.stage, "W", each.microbatch))
        if len(waiting) > rank:
            order.append(waiting.pop(0))
    return order + waiting


def _alternating(pipelines: Pipelines, rank: int, ahead: int) -> list[Pass]:
    """So many forwards, then one forward and one backward in turn while there are any. With several
    stages per rank, a round of microbatches passes one stage before it passes the next."""
    stages = pipelines.stages_of(rank)
    forwards = _by_rounds(pipelines, stages, "F")
    order = forwards[:ahead]
    for number, backward in enumerate(_by_rounds(pipelines, stages[::-1], "B")):
        order += forwards[ahead + number : ahead + number + 1]
        order.append(backward)
    return order


def _in_round(pipelines: Pipelines) -> int:
    """Microbatches in a round."""
    count = pipelines.microbatches_of_each
    return count // max(1, count // pipelines.ranks)


def _by_rounds(pipelines: Pipelines, stages: tuple[int, ...], kind: Kind) -> list[Pass]:
    in_round = _in_round(pipelines)
    return [
        Pass(stage, kind, m)
        for first in range(0, pipelines.microbatches_of_each, in_round)
        for stage in stages
        for m in range(first, first + in_round)
    ]


_ORDERS: Mapping[str, Callable[[Pipelines, int], list[Pass]]] = {
    "mp": _all_forwards_first,
    "gpipe": _all_forwards_first,
    "1f1b": _in_turn,
    "interleaved": _in_turn,
    "bfs": _breadth_first,
    "zero-bubble": _zero_bubble,
    "zbv": zero_bubble_v,
    "dualpipev": dual_pipe_v,
}

ORDERED = tuple(_ORDERS)
"""Torch's schedules."""


def orders_of(pipelines: Pipelines, *, updates: bool = False) -> list[list[Pass]]:
    """The passes of each rank of one pipeline in an update, for a schedule in ORDERED. With
    `updates`, those of its stages come last."""
    order = _ORDERS[pipelines.framework]
    orders = [order(pipelines, rank) for rank in range(pipelines.ranks)]
    if updates:
        for rank, passes in enumerate(orders):
            passes += [Pass(stage, "U", 0) for stage in pipelines.stages_of(rank)]
    return orders


def flushing_orders(schedule: Schedule) -> list[list[Pass]]:
    """The passes and the update of each rank in a batch of `pipedream-flush`. Replicas of a stage
    take turns, and update together."""
    orders = []
    for rank in range(schedule.layout.world_size):
        stage, replica = schedule.layout.place(rank)
        order = []
        for action in schedule.actions(rank, schedule.microbatches):
            if isinstance(action, Forward):
                order.append(Pass(stage, "F", action.minibatch))
            elif isinstance(action, Backward):
                order.append(Pass(stage, "B", action.minibatch))
            else:
                order.append(Pass(stage, "U", replica))
        orders.append(order)
    return orders


def in_flight(order: list[Pass]) -> dict[int, int]:
    """By stage, the most microbatches that a rank keeps between their forward and their backward
    pass."""
    now: dict[int, int] = {}
    most: dict[int, int] = {}
    for each in order:
        # What the gradients of the weights need is kept until they are there.
        change = {"F": 1, "B": -1, "W": -1}.get(each.kind, 0)
        now[each.stage] = now.get(each.stage, 0) + change
        most[each.stage] = max(most.get(each.stage, 0), now[each.stage])
    return most
