"""Cuts a model into pipeline stages along its operator graph. Deterministic: every rank may cut for
itself.

What lives here: which operators are in which stage, and the checks that they make stages. Not here:
which cuts are good (even_cuts.py, planner/), the graph of a stage (stage_graph.py), how stages run
(runtime.py).
"""

from collections.abc import Collection, Sequence

import torch
from torch import nn

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.rank.pipeline.even_cuts import even_points
from pytest_dnnbench.rank.pipeline.stage_graph import StageBuilder
from pytest_dnnbench.rank.pipeline.stage_module import StageModule
from pytest_dnnbench.rank.profiling.example_input import Example
from pytest_dnnbench.rank.profiling.operator_graph import OperatorGraph, trace
from pytest_dnnbench.rank.profiling.weights import read_only_buffers, tied_weights

Into = int | Sequence[str] | Sequence[Collection[str]]


def cut(
    model: nn.Module | OperatorGraph,
    example: Example | torch.Tensor | None,
    into: Into,
    *,
    tied: bool = False,
) -> list[StageModule]:
    """The stages of a model, in order. Composed, they compute what the model computes, bit for bit.
    With `tied`, modules that share a weight may be in different stages, which then hold the same.

    `model` is the model, with an `example` of its inputs on its device, or its graph, which needs
    none. The first stage takes the tensors of the inputs, the last returns those of the output, in
    the order of the graph's structures. `into` is

    - a number of stages, about equal in floating-point operations, cut only where a single tensor
      passes;
    - or the names of the operators after which to cut, in program order;
    - or one set of operator names per stage: the operators of a planner's stages.

    Raises UsageError if the model cannot be traced, and PlanError if the stages do not fit it:
    unknown, missing or doubled operators, an operator before what it needs, a parameter in two
    stages, too few cut points.
    """
    if isinstance(model, nn.Module):
        assert example is not None, "a model is traced with an example batch"
        graph = trace(model, example)
    else:
        graph = model
    home = _home(graph, _groups(graph, into))
    stages = [StageBuilder(graph, home, index).stage() for index in range(max(home.values()) + 1)]
    anywhere = read_only_buffers(graph)
    _check_owners(stages, anywhere | tied_weights(graph) if tied else anywhere)
    return stages


def _groups(graph: OperatorGraph, into: Into) -> list[Collection[str]]:
    """The operators of each stage."""
    if isinstance(into, int):
        return _after(graph, even_points(graph, into))
    if all(isinstance(part, str) for part in into):
        return _after(graph, [str(part) for part in into])
    return [part for part in into if not isinstance(part, str)]


def _after(graph: OperatorGraph, points: Sequence[str]) -> list[Collection[str]]:
    """The operators of each stage for cuts after these operators."""
    unknown = [point for point in points if point not in graph.operators]
    if unknown:
        raise PlanError(
            f"the model has no operator {unknown[0]!r} to cut after: see those of its profile"
        )
    ends = [graph.operators.index(point) + 1 for point in points]
    if sorted(set(ends)) != ends or len(graph.operators) in ends:
        raise PlanError(
            f"cut points {list(points)} leave an empty stage: give them in program order, each once"
        )
    return [
        graph.operators[start:end] for start, end in zip([0, *ends], [*ends, None], strict=True)
    ]


def _home(graph: OperatorGraph, groups: Sequence[Collection[str]]) -> dict[str, int]:
    """The stage of each operator and each item, after a check that the groups are stages of this
    graph."""
    home: dict[str, int] = {}
    for index, group in enumerate(groups):
        for name in group:
            if name in home:
                raise PlanError(
                    f"operator {name!r} is in stages {home[name]} and {index}: put it into one"
                )
            home[name] = index
        if not group:
            raise PlanError(f"stage {index} has no operators: plan for fewer stages")
    _check_operators(graph, home)
    for source, target in graph.edges:
        if home[source] > home[target]:
            raise PlanError(
                f"operator {target!r} of stage {home[target]} needs {source!r} of stage"
                f" {home[source]}: a stage can only use what earlier stages make"
            )
    return home | {item: home[source] for item, source in graph.items.items()}


def _check_operators(graph: OperatorGraph, home: dict[str, int]) -> None:
    """Raises PlanError unless exactly the graph's operators have a stage."""
    unknown = sorted(home.keys() - set(graph.operators))
    missing = [name for name in graph.operators if name not in home]
    if not unknown and not missing:
        return
    what = (
        f"has no operator {unknown[0]!r}"
        if unknown
        else f"has an operator {missing[0]!r} in no stage"
    )
    raise PlanError(
        f"the model {what}: the plan is of another model or version, profile and plan again"
    )


def _check_owners(stages: Sequence[StageModule], anywhere: set[int]) -> None:
    """Raises PlanError if two stages hold the same parameter or buffer, under whatever names. The
    buffers whose ids are in `anywhere` may be in several."""
    owner: dict[int, tuple[int, str]] = {}
    for index, stage in enumerate(stages):
        for name, tensor in [*stage.named_parameters(), *stage.named_buffers()]:
            if id(tensor) in anywhere:
                continue
            other, other_name = owner.setdefault(id(tensor), (index, name))
            if other != index:
                raise PlanError(
                    f"stages {other} and {index} share {other_name!r}"
                    + (f" (also {name!r})" if name != other_name else "")
                    + ": weights cannot be in two places, cut so that one stage has all its uses"
                )
