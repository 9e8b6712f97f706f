"""The operator graph of a model: traced with torch.fx, once for training and once for evaluation,
which may leave out what training alone runs, as auxiliary heads.

An operator is one call of the traced model that returns a tensor and depends on the inputs: a leaf
module, a function or a method. A leaf is a module of torch.nn, a module without child modules, or a
module whose class says `pipeline_leaf = True`. It is called as a whole, so its inside (control
flow, running statistics) needs no tracing. Taking an item of a tuple, list or dict belongs to the
operator that made it. Anything else, such as a size, a parameter by itself or arithmetic on those,
is no operator: every stage that needs it computes it again.

Not here: what the operators do to tensors (observation.py), stages (cut.py), times (profiler.py).
"""

import operator
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import torch
from torch import fx, nn

from pytest_dnnbench.errors import DnnbenchError, UsageError
from pytest_dnnbench.rank.profiling.example_input import Example, Forward, of_tensor
from pytest_dnnbench.rank.profiling.forward_region import region_of
from pytest_dnnbench.rank.profiling.fx_calls import CONSTANT, constant_of, returned
from pytest_dnnbench.rank.profiling.observation import NodeObservation, observe
from pytest_dnnbench.rank.profiling.tracer import DependsOnImagesError, ModelTracer, user_line
from pytest_dnnbench.rank.proof.lone_forward import LoneForward
from pytest_dnnbench.rank.workloads.first_pass import IN_PLACE_OF_IMAGES, described
from pytest_dnnbench.rank.workloads.model_copy import copied
from pytest_dnnbench.rank.workloads.structure import Structure, mapped

REMEDY = (
    "let it depend on sizes or settings only, or mark the block as a leaf (`pipeline_leaf = True`"
    " in its class), or give the stages by hand"
)


_MOST_TRIES = 100_000
"""Of the search for the nodes of one mode among those of the other."""


@dataclass(frozen=True, slots=True)
class OperatorGraph:
    """A model as a graph of operators, in program order. A graph takes the tensors of the model's
    inputs, and returns those of its output as a tuple.

    forward      how the model is called
    inputs       the structure of its inputs
    returns      that of its output, in training (True) and in evaluation (False)
    training     the graph in training mode
    evaluation   the same graph, or a part of it, except for constants that follow the mode
    operators    the names of the operators
    items        by the name of a node that takes an item of a tuple, list or dict: the operator
                 that made it
    edges        data dependencies (source, target), those through sizes included
    observed     by node name, what the node did in an example run
    after_gap    the line before which the forward was on the host for longest; empty without any
    """

    model: nn.Module
    forward: Forward
    inputs: Structure
    returns: Mapping[bool, Structure]
    training: fx.Graph
    evaluation: fx.Graph
    operators: tuple[str, ...]
    items: dict[str, str]
    edges: tuple[tuple[str, str], ...]
    observed: dict[str, NodeObservation]
    after_gap: str = ""

    def without_weights(self) -> "OperatorGraph | None":
        """The graph without its model, for other models of the same factory; None where it has
        constants or modules of its own, which belong to this model."""
        for graph in (self.training, self.evaluation):
            if any(constant_of(node) is not None or "module" in node.meta for node in graph.nodes):
                return None
        return replace(self, model=nn.Module())

    def description(self, name: str) -> str:
        """The operator for people: its module with settings and path, or the name of its
        function."""
        node = next(node for node in self.training.nodes if node.name == name)
        if node.op != "call_module":
            return node.target if isinstance(node.target, str) else node.target.__name__
        module = self.model.get_submodule(str(node.target))
        return " ".join(f"{type(module).__name__}({module.extra_repr()}) {node.target}".split())


def trace(model: nn.Module, example: Example | torch.Tensor) -> OperatorGraph:
    """The operator graph of a model.

    `example` has small inputs on the model's device, or is a small batch where the model takes one
    tensor. Copies of the model run on it in both modes. Raises UsageError for a model that cannot
    be traced, with the operation, the line and the remedy.
    """
    if isinstance(example, torch.Tensor):
        example = of_tensor(example)
    traced = _traced(model, example)
    if any(_returns_container(graph, traced.observed) for graph in traced.graphs.values()):
        traced = _traced(model, example, opens_output=True)
    tracers, graphs, observed = traced.tracers, traced.graphs, traced.observed
    for graph in graphs.values():
        _follow_overwriting(graph, observed)
    for mode, tracer in tracers.items():
        _check_output(graphs[mode], tracer.returns, observed)
    items = _items(graphs[True], observed)
    operators = tuple(name for name in _operators(graphs[True], observed) if name not in items)
    edges = _edges(graphs[True], operators)
    after_gap = tracers[True].longest_gap[1]
    return OperatorGraph(
        model,
        example.forward,
        tracers[True].inputs,
        {mode: tracer.returns for mode, tracer in tracers.items()},
        graphs[True],
        graphs[False],
        operators,
        items,
        edges,
        observed,
        after_gap,
    )


@dataclass(frozen=True, slots=True)
class _Traced:
    """The tracers and graphs of both modes, and what their nodes did in an example run."""

    tracers: dict[bool, ModelTracer]
    graphs: dict[bool, fx.Graph]
    observed: dict[str, NodeObservation]


def _traced(model: nn.Module, example: Example, *, opens_output: bool = False) -> _Traced:
    tracers = {mode: ModelTracer(example, opens_output=opens_output) for mode in (True, False)}
    graphs = {mode: _symbolic(model, mode, tracer) for mode, tracer in tracers.items()}
    _align(graphs[True], graphs[False])
    _check_repeats(model, graphs, example)
    return _Traced(tracers, graphs, _observed(model, graphs, example))


def _returns_container(graph: fx.Graph, observed: dict[str, NodeObservation]) -> bool:
    """Whether the model returns whole what an operator makes of several tensors."""
    return any(_is_container(observed[node.name]) for node in returned(graph))


def _symbolic(model: nn.Module, training: bool, tracer: ModelTracer) -> fx.Graph:
    with _mode(model, training):
        try:
            return tracer.traced(model)
        except Exception as error:
            _check_runs(model, tracer.example)
            raise UsageError(_untraceable(model, tracer, error)) from error


def _observed(
    model: nn.Module, graphs: dict[bool, fx.Graph], example: Example
) -> dict[str, NodeObservation]:
    try:
        return observe(model, graphs, example)
    except (DnnbenchError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        _check_runs(model, example)
        raise UsageError(
            f"{type(model).__name__} cannot be cut into operators: run one by one they end in"
            f" {type(error).__name__}: {' '.join(str(error).split())}; mark the block that does it"
            " as a leaf (`pipeline_leaf = True` in its class)"
        ) from error


def _check_runs(model: nn.Module, example: Example) -> None:
    """Raises UsageError where the model itself does not take the example: that no trace can."""
    devices = [example.device] if example.device.type == "cuda" else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices), LoneForward():
            example.forward(copied(model), mapped(example.inputs, torch.clone))
    except (DnnbenchError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UsageError(
            f"{type(model).__name__} raises {type(error).__name__} when it is called with"
            f" {described(example.inputs)}: {' '.join(str(error).split())}; a plain module is"
            " called with the suite's images, and a model of anything else needs a"
            f" {IN_PLACE_OF_IMAGES}"
        ) from error


@contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before.items():
            module.training = mode


def _untraceable(model: nn.Module, tracer: ModelTracer, error: Exception) -> str:
    if isinstance(error, DependsOnImagesError):
        why = str(error)
    else:
        made = [node.name for node in tracer.graph.nodes] if hasattr(tracer, "graph") else []
        after = f" (after operation {made[-1]!r})" if made else ""
        why = " ".join(f"{type(error).__name__}: {error}{after}".split())
    frames = reversed(list(traceback.walk_tb(error.__traceback__)))
    return (
        f"{type(model).__name__} cannot be cut into operators at {user_line(frames)}: {why};"
        f" {REMEDY}"
    )


def _check_modes_agree(training: fx.Graph, evaluation: fx.Graph) -> None:
    for ours, theirs in zip_longest(training.nodes, evaluation.nodes):
        if ours is None or theirs is None or _shape(ours) != _shape(theirs):
            names = [node.name if node is not None else "nothing" for node in (ours, theirs)]
            heads = _only_in(training, evaluation)
            if heads:
                remedy = (
                    f"only training runs {', '.join(heads)}; if these are auxiliary heads, build"
                    " the model without them (aux_logits=False in torchvision)"
                )
            else:
                remedy = (
                    "put the difference into its own module, such as nn.Dropout, or mark the block"
                    " as a leaf (`pipeline_leaf = True`)"
                )
            raise UsageError(
                f"the model does {names[0]} in training where it does {names[1]} in evaluation:"
                f" {remedy}"
            )


def _align(training: fx.Graph, evaluation: fx.Graph) -> None:
    """Gives the nodes of the evaluation graph the names that they have in training, where there may
    be more. Raises UsageError where evaluation does something that training does not.

    Each node takes the first one after that of its predecessor which does the same to the same
    values. Where two do, as tanh(x) for an auxiliary head and tanh(x) after it, the first may be
    the wrong one: its users then have no counterpart, and the search goes back to it.
    """
    ours = [node for node in training.nodes if node.op != "output"]
    theirs = [node for node in evaluation.nodes if node.op != "output"]
    works = [_work(node, {}) for node in ours]
    names: dict[fx.Node, str] = {}
    chosen: list[int] = []
    start = tries = 0
    while len(chosen) < len(theirs):
        node, tries = theirs[len(chosen)], tries + 1
        wanted = _work(node, names)
        place = next((n for n in range(start, len(ours)) if works[n] == wanted), None)
        if place is not None:
            names[node], start = ours[place].name, place + 1
            chosen.append(place)
        elif not chosen or tries > _MOST_TRIES:
            _check_modes_agree(training, evaluation)  # says where they part
            raise AssertionError("graphs that agree are aligned")
        else:
            start = chosen.pop() + 1
            del names[theirs[len(chosen)]]
    for node, name in names.items():
        node.name = name


def _work(node: fx.Node, names: Mapping[fx.Node, str]) -> tuple[Any, ...]:
    """What a node does, and to which values, by these names of theirs or their own. Constants may
    follow the mode."""
    inputs = [names.get(value, value.name) for value in node.all_input_nodes]
    target = node.target if constant_of(node) is None else CONSTANT
    return node.op, target, inputs, region_of(node)


def _only_in(training: fx.Graph, evaluation: fx.Graph) -> list[str]:
    """The outermost modules that only training calls."""
    called = [
        {str(node.target).split(".")[0] for node in graph.find_nodes(op="call_module")}
        for graph in (training, evaluation)
    ]
    return sorted(called[0] - called[1])


def _check_repeats(model: nn.Module, graphs: dict[bool, fx.Graph], example: Example) -> None:
    """Raises UsageError where the constants of a forward are others each time: a trace would keep
    those of one time for ever."""
    if _same_constants(graphs[True], graphs[False]):
        return
    again = _symbolic(model, True, ModelTracer(example))
    _check_modes_agree(graphs[True], again)
    if not _same_constants(graphs[True], again):
        raise UsageError(
            f"{type(model).__name__} makes tensors in its forward that are others each time, from"
            " random numbers or from the state of the host: draw them with the images' size"
            " (torch.rand(images.shape[1:])), or mark the block as a leaf (`pipeline_leaf = True`)"
        )


def _same_constants(left: fx.Graph, right: fx.Graph) -> bool:
    others = {node.name: node for node in right.find_nodes(op="get_attr")}
    pairs = [
        (node, others[node.name]) for node in left.find_nodes(op="get_attr") if node.name in others
    ]
    return all(
        ours is theirs
        or (
            ours is not None
            and theirs is not None
            and ours.dtype == theirs.dtype
            and ours.shape == theirs.shape
            and torch.allclose(ours, theirs, rtol=0.0, atol=0.0, equal_nan=True)
        )
        for ours, theirs in ((constant_of(a), constant_of(b)) for a, b in pairs)
    )


def _shape(node: fx.Node) -> tuple[Any, ...]:
    inputs = [value.name for value in node.all_input_nodes]
    return node.op, node.name, node.target, inputs, region_of(node)


def _follow_overwriting(graph: fx.Graph, observed: dict[str, NodeObservation]) -> None:
    """Makes every node that uses a value after an in-place operator has changed and returned it
    depend on that operator, and on the last of several."""
    position = {node: index for index, node in enumerate(graph.nodes)}
    # By node that returns what another made: the name of the first, which all of them stand for.
    first_names: dict[fx.Node, str] = {}
    for node in graph.nodes:
        returned = observed[node.name].returns
        for value in node.all_input_nodes:
            if returned is not None and returned in (value.name, first_names.get(value)):
                first_names[node] = first_names.get(value, value.name)
                for user in [user for user in value.users if position[user] > position[node]]:
                    user.replace_input_with(value, node)


def _check_output(
    graph: fx.Graph, structure: Structure, observed: dict[str, NodeObservation]
) -> None:
    nodes = returned(graph)
    if not nodes:
        raise UsageError(
            f"the model returns {structure.described()}, and a loss needs a tensor: return one"
        )
    for name, node in zip(structure.names, nodes, strict=True):
        if not observed[node.name].is_tensor:
            what = f"{name!r} of its output" if name else "its output"
            raise UsageError(
                f"the model returns as {what} what {node.name!r} makes, which is no tensor: return"
                " tensors, or tuples, lists and dicts of them, and no sizes"
            )


def _operators(graph: fx.Graph, observed: dict[str, NodeObservation]) -> tuple[str, ...]:
    fed: set[fx.Node] = set(graph.find_nodes(op="placeholder"))
    operators = []
    for node in graph.nodes:
        if node.op == "output" or not fed.intersection(node.all_input_nodes):
            continue
        fed.add(node)
        if observed[node.name].is_tensor or _is_container(observed[node.name]):
            operators.append(node.name)
    return tuple(operators)


def _is_container(observation: NodeObservation) -> bool:
    return observation.parts is not None or observation.is_mixed


def _items(graph: fx.Graph, observed: dict[str, NodeObservation]) -> dict[str, str]:
    """Nodes that take a tensor, or an inner tuple, out of a tuple, list or dict, with the operator
    that made the outermost of them.

    Raises UsageError where a node uses, as a whole, one with more than tensors in it: no stage
    could send that.
    """
    items: dict[str, str] = {}
    for node in graph.nodes:
        source = node.args[0] if node.target is operator.getitem else None
        if (
            isinstance(source, fx.Node)
            and _is_container(observed[source.name])
            and isinstance(node.args[1], int | str)
        ):
            if observed[node.name].is_tensor or _is_container(observed[node.name]):
                items[node.name] = items.get(source.name, source.name)
            continue
        for value in node.all_input_nodes:
            if observed[value.name].is_mixed:
                raise UsageError(
                    f"operation {value.name!r} returns tensors together with other things, which"
                    f" {node.name!r} takes as a whole: return tensors, or mark the block around"
                    " both as a leaf (`pipeline_leaf = True`)"
                )
    return items


def _edges(graph: fx.Graph, operators: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    names = set(operators)
    sources: dict[fx.Node, dict[str, None]] = {}
    edges = []
    for node in graph.nodes:
        sources[node] = {}
        for value in node.all_input_nodes:
            sources[node].update({value.name: None} if value.name in names else sources[value])
        if node.name in names:
            edges += [(source, node.name) for source in sources[node]]
    return tuple(edges)
