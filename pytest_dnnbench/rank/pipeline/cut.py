"""Cuts a model into pipeline stages along its operator graph. Deterministic: every rank may cut for
itself.

A value that a stage makes and a later one needs travels through all stages between, once. A value
that is no tensor (a size) and one that depends on no image (a parameter by itself) does not travel:
each stage that needs it works it out again. Not here: which cut is good (the planner), how stages
run (the runtime).
"""

import operator
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.rank.pipeline.stage_module import StageModule, separate
from pytest_dnnbench.rank.profiling.operator_graph import OperatorGraph, trace

Into = int | Sequence[str] | Sequence[Collection[str]]


def cut(
    model: nn.Module | OperatorGraph, example: torch.Tensor | None, into: Into
) -> list[StageModule]:
    """The stages of a model, in order; composed, they compute what the model computes, bit for bit.

    `model` is the model, with an `example` batch of images on its device, or its graph, which needs
    none. `into` is

    - a number of stages, about equal in floating-point operations, cut only where a single tensor passes;
    - or the names of the operators after which to cut, in program order;
    - or one set of operator names per stage: the nodes of a planner's stages.

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
    stages = [_Builder(graph, home, index).stage() for index in range(max(home.values()) + 1)]
    _check_owners(stages)
    return stages


def cut_points(graph: OperatorGraph) -> tuple[str, ...]:
    """The operators after which exactly one tensor passes, in program order."""
    position = {name: index for index, name in enumerate(graph.operators)}
    last_use = {name: position[name] for name in graph.operators}
    for source, target in graph.edges:
        last_use[source] = max(last_use[source], position[target])
    needs_images = _last_use_of_images(graph, position)
    points = []
    for index, name in enumerate(graph.operators[:-1]):
        passing = [other for other in graph.operators[: index + 1] if last_use[other] > index]
        if passing == [name] and needs_images <= index and graph.observed[name].is_tensor:
            points.append(name)
    return tuple(points)


def _last_use_of_images(graph: OperatorGraph, position: dict[str, int]) -> int:
    """The last operator, by position, that uses the images themselves or a size of theirs."""
    reached = set(graph.training.find_nodes(op="placeholder"))
    last = -1
    for node in graph.training.nodes:
        if reached.intersection(node.all_input_nodes):
            if node.name in position:
                last = position[node.name]
            else:
                reached.add(node)
    return last


def _groups(graph: OperatorGraph, into: Into) -> list[Collection[str]]:
    if isinstance(into, int):
        return _after(graph, even_points(graph, into))
    if all(isinstance(part, str) for part in into):
        return _after(graph, [str(part) for part in into])
    return [part for part in into if not isinstance(part, str)]


def _after(graph: OperatorGraph, points: Sequence[str]) -> list[Collection[str]]:
    unknown = [point for point in points if point not in graph.operators]
    if unknown:
        raise PlanError(
            f"the model has no operator {unknown[0]!r} to cut after: see the nodes of its profile"
        )
    ends = [graph.operators.index(point) + 1 for point in points]
    if sorted(set(ends)) != ends or len(graph.operators) in ends:
        raise PlanError(
            f"cut points {list(points)} leave an empty stage: give them in program order, none twice"
        )
    return [
        graph.operators[start:end] for start, end in zip([0, *ends], [*ends, None], strict=True)
    ]


def even_points(graph: OperatorGraph, stages: int) -> list[str]:
    """Cut points for so many stages, the largest stage as small as can be in floating-point
    operations."""
    points = cut_points(graph)
    if not 1 <= stages <= len(points) + 1:
        raise PlanError(
            f"{stages} stages asked for, but the model has {len(points)} cut points: ask for 1 to {len(points) + 1}"
        )
    weights, weight = [], 0
    for name in graph.operators:
        weight += graph.observed[name].operations
        if name in points or name == graph.operators[-1]:
            weights.append(weight)
            weight = 0
    return [points[end - 1] for end in _even_ends(weights, stages)]


def _even_ends(weights: Sequence[int], parts: int) -> tuple[int, ...]:
    """Where to split a sequence into so many non-empty runs, the heaviest as light as possible;
    first such split."""
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
    answer = best[-1]
    assert answer is not None, "parts <= len(weights) was checked"
    return answer[1]


def _home(graph: OperatorGraph, groups: Sequence[Collection[str]]) -> dict[str, int]:
    """The stage of each operator and each item, after checking that the groups are stages of this
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
    unknown, missing = (
        sorted(home.keys() - set(graph.operators)),
        [n for n in graph.operators if n not in home],
    )
    if unknown or missing:
        what = (
            f"has no operator {unknown[0]!r}"
            if unknown
            else f"has an operator {missing[0]!r} in no stage"
        )
        raise PlanError(
            f"the model {what}: the plan is of another model or version, profile and plan again"
        )
    for source, target in graph.edges:
        if home[source] > home[target]:
            raise PlanError(
                f"operator {target!r} of stage {home[target]} needs {source!r} of stage {home[source]}: "
                "a stage can only use what earlier stages make"
            )
    return home | {item: home[source] for item, source in graph.items.items()}


@dataclass(frozen=True, slots=True)
class _Builder:
    """Builds one stage. `home` maps each operator and item to its stage; the images, stage -1, come
    from outside."""

    graph: OperatorGraph
    home: dict[str, int]
    index: int

    def stage(self) -> StageModule:
        operators = tuple(name for name in self.graph.operators if self.home[name] == self.index)
        training, evaluation = self._part(self.graph.training), self._part(self.graph.evaluation)
        return StageModule(self.graph.model, training, evaluation, operators)

    def _part(self, whole: fx.Graph) -> fx.Graph:
        part = fx.Graph()
        values: dict[fx.Node, fx.node.Argument] = {}
        for value in self._passing(whole, self.index):
            values[value] = self._take(part, value)
        inside = self._inside(whole)
        for node in whole.nodes:
            if node in inside:
                copied = part.node_copy(node, values.__getitem__)
                values[node] = copied
                self._keep_apart(node, copied, values)
        part.output(tuple(self._hand_on(part, whole, values)))
        return part

    def _home_of(self, node: fx.Node) -> int | None:
        """The stage that makes a travelling value; None for one that each stage works out again."""
        return -1 if node.op == "placeholder" else self.home.get(node.name)

    def _inside(self, whole: fx.Graph) -> set[fx.Node]:
        """The stage's operators and whatever they need that does not travel."""
        inside = {node for node in whole.nodes if self.home.get(node.name) == self.index}
        for node in reversed(whole.nodes):
            if node in inside:
                inside.update(
                    value for value in node.all_input_nodes if self._home_of(value) is None
                )
        return inside

    def _passing(self, whole: fx.Graph, index: int) -> list[fx.Node]:
        """The values that enter stage `index`: made before it, needed in it or after it. In program
        order."""
        needed = set(whole.output_node().all_input_nodes)
        for node in reversed(whole.nodes):
            late = self.home.get(node.name, -1) >= index
            if late or (node in needed and self._home_of(node) is None):
                needed.update(node.all_input_nodes)
        return [
            node
            for node in whole.nodes
            if node in needed and (home := self._home_of(node)) is not None and home < index
        ]

    def _take(self, part: fx.Graph, value: fx.Node) -> fx.node.Argument:
        parts = self.graph.observed[value.name].parts
        if parts is None:
            return part.placeholder(value.name)
        return tuple(part.placeholder(f"{value.name}_{number}") for number in range(parts))

    def _hand_on(
        self, part: fx.Graph, whole: fx.Graph, values: dict[fx.Node, fx.node.Argument]
    ) -> Iterator[fx.node.Argument]:
        last = self.index == max(self.home.values())
        for value in (
            whole.output_node().all_input_nodes if last else self._passing(whole, self.index + 1)
        ):
            for tensor in self._tensors(part, value, values[value]):
                yield (
                    tensor if self._is_used_later(value) else part.call_method("detach", (tensor,))
                )

    def _tensors(
        self, part: fx.Graph, value: fx.Node, made: fx.node.Argument
    ) -> list[fx.node.Argument]:
        parts = self.graph.observed[value.name].parts
        if parts is None:
            return [made]
        if isinstance(made, tuple):
            return list(made)
        return [part.call_function(operator.getitem, (made, number)) for number in range(parts)]

    def _is_used_later(self, value: fx.Node) -> bool:
        """Whether a later operator takes the value itself: of one that travels for its size, no
        gradient returns."""
        return any(
            user.op == "output" or self.home.get(user.name, -1) > self.index for user in value.users
        )

    def _keep_apart(
        self, node: fx.Node, copied: fx.Node, values: dict[fx.Node, fx.node.Argument]
    ) -> None:
        """Lets a node write to a new tensor, if the one that it would change comes from or goes to
        another stage."""
        named = {other.name: other for other in node.graph.nodes}
        changed = [named[name] for name in self.graph.observed[node.name].overwrites]
        if all(self._is_private(value) for value in changed):
            return
        direct = [value for value in changed if value in node.all_input_nodes]
        self._refuse_later_use(
            node, [value for value in changed if value.name != self._returned(node)]
        )
        separate(
            copied,
            self.graph.model,
            (made for value in direct if isinstance(made := values[value], fx.Node)),
        )

    def _returned(self, node: fx.Node) -> str | None:
        return self.graph.observed[node.name].returns

    def _is_private(self, value: fx.Node) -> bool:
        return self._home_of(value) == self.index and all(
            self._home_of(user) in (self.index, None) and user.op != "output"
            for user in value.users
        )

    def _refuse_later_use(self, node: fx.Node, changed: Sequence[fx.Node]) -> None:
        """A value changed behind its name (through a view) cannot be told apart from its former
        self."""
        order = list(node.graph.nodes)
        after = set(order[order.index(node) + 1 :])
        for value in changed:
            if after.intersection(value.users):
                raise PlanError(
                    f"operator {node.name!r} changes {value.name!r} in place, which is used later, "
                    f"and the two are cut apart: keep them in one stage, or write {node.name!r} out of place"
                )


def _check_owners(stages: Sequence[StageModule]) -> None:
    """Raises PlanError if two stages hold the same parameter or buffer, under whatever names."""
    owner: dict[int, tuple[int, str]] = {}
    for index, stage in enumerate(stages):
        for name, tensor in [*stage.named_parameters(), *stage.named_buffers()]:
            first, first_name = owner.setdefault(id(tensor), (index, name))
            if first != index:
                raise PlanError(
                    f"stages {first} and {index} share {first_name!r}"
                    + (f" (also {name!r})" if name != first_name else "")
                    + ": weights cannot be in two places, cut so that one stage has all its uses"
                )
