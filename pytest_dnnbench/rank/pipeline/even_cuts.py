"""Where to cut a model into stages that are about equal: at places where a single tensor passes, by
floating-point operations.

Not here: how a cut model becomes stages (cut.py), and the best cuts from measured times (planner/).
"""

from collections.abc import Sequence

from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.rank.profiling.fx_calls import returned
from pytest_dnnbench.rank.profiling.operator_graph import OperatorGraph
from pytest_dnnbench.rank.profiling.weights import together


def even_points(graph: OperatorGraph, stages: int) -> list[str]:
    """The operators after which to cut, so that the largest stage is as small as possible in
    floating-point operations. Raises PlanError for more stages than the cut points allow."""
    points = cut_points(graph)
    if not 1 <= stages <= len(points) + 1:
        raise PlanError(
            f"{counted(stages, 'stage')} requested, but the model has"
            f" {counted(len(points), 'cut point')}: ask for 1 to {len(points) + 1}"
        )
    weights, weight = [], 0
    for name in graph.operators:
        weight += graph.observed[name].operations
        if name in points or name == graph.operators[-1]:
            weights.append(weight)
            weight = 0
    return [points[end - 1] for end in _even_ends(weights, stages)]


def cut_points(graph: OperatorGraph) -> tuple[str, ...]:
    """The operators after which exactly one tensor passes, made by themselves, and which divide no
    group of operators that have to stay together, in program order."""
    position = {name: index for index, name in enumerate(graph.operators)}
    last_use = {name: position[name] for name in graph.operators}
    for source, target in graph.edges:
        last_use[source] = max(last_use[source], position[target])
    for node in returned(graph.training):  # passes to the end
        source = graph.items.get(node.name, node.name)
        if source in position:
            last_use[source] = len(position)
    spans = [(position[group[0]], position[group[-1]]) for group in together(graph)]
    needs_inputs = _last_use_of_inputs(graph, position)
    points = []
    for index, name in enumerate(graph.operators[:-1]):
        passing = [other for other in graph.operators[: index + 1] if last_use[other] > index]
        divides = any(first <= index < last for first, last in spans)
        if (
            passing == [name]
            and not divides
            and needs_inputs <= index
            and graph.observed[name].is_tensor
        ):
            points.append(name)
    return tuple(points)


def _last_use_of_inputs(graph: OperatorGraph, position: dict[str, int]) -> int:
    """The position of the last operator that uses an input itself or its size."""
    reached = set(graph.training.find_nodes(op="placeholder"))
    last = -1
    for node in graph.training.nodes:
        if reached.intersection(node.all_input_nodes):
            if node.name in position:
                last = position[node.name]
            else:
                reached.add(node)
    return last


def _even_ends(weights: Sequence[int], parts: int) -> tuple[int, ...]:
    """Where to split a sequence into `parts` non-empty runs, the heaviest as light as possible. Of
    equals, the first such split.

    best[end] is the split of the first `end` weights: the weight of its heaviest run, and where its
    runs after the first begin; None where there are fewer weights than parts.
    """
    total = [sum(weights[:index]) for index in range(len(weights) + 1)]
    best: list[tuple[int, tuple[int, ...]] | None] = [(total[end], ()) for end in range(len(total))]
    for part in range(2, parts + 1):
        best = [
            min(
                (max(before[0], total[end] - total[start]), (*before[1], start))
                for start in range(part - 1, end)
                if (before := best[start]) is not None
            )
            if end >= part
            else None
            for end in range(len(total))
        ]
    split = best[-1]
    assert split is not None, "parts <= len(weights) was checked"
    return split[1]
