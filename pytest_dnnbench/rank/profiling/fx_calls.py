"""A traced graph as a list of calls, to run one operator at a time. Not here: stages and clocks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter, methodcaller
from typing import Any

import torch
from torch import fx, nn

from pytest_dnnbench.rank.profiling.forward_region import OUTSIDE, region_of

CONSTANT = "constant"
"""Key of a node's `meta`: the tensor that it stands for, one that the forward made itself."""


@dataclass(frozen=True, slots=True)
class Call:
    """One node of a graph, ready to run: `function` takes the arguments of `node`. After it, no
    node needs the values of `frees`."""

    node: fx.Node
    function: Callable[..., Any]
    frees: tuple[fx.Node, ...]

    def arguments(self, values: dict[fx.Node, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The node's positional and keyword arguments, with its value in place of each node."""
        if self.node.op == "get_attr":
            return (), {}
        positional, keyword = fx.node.map_arg(
            (self.node.args, self.node.kwargs), values.__getitem__
        )
        return positional, keyword


def with_item(value: torch.Tensor, index: Any, part: Any) -> torch.Tensor:
    """The value after `value[index] = part`: as an operator, which returns what it has changed."""
    value[index] = part
    return value


def calls(model: nn.Module, graph: fx.Graph) -> list[Call]:
    """The calls of a graph in program order. Placeholders and the output are no calls."""
    output = graph.output_node()
    last_use = {value: node for node in graph.nodes for value in node.all_input_nodes}
    dead_after: dict[fx.Node, list[fx.Node]] = {node: [] for node in graph.nodes}
    for value, node in last_use.items():
        dead_after[node].append(value)
    for node in graph.nodes:
        if not node.users and node is not output:
            dead_after[node].append(node)
    return [
        Call(node, function_of(model, node), tuple(dead_after[node]))
        for node in graph.nodes
        if node.op not in ("placeholder", "output")
    ]


def fed(graph: fx.Graph, row: Sequence[torch.Tensor]) -> dict[fx.Node, Any]:
    """The values of the placeholders of a graph: the tensors of the model's inputs."""
    return dict(zip(graph.find_nodes(op="placeholder"), row, strict=True))


def returned(graph: fx.Graph) -> list[fx.Node]:
    """The nodes whose values the model returns, in the order of the row, some perhaps twice."""
    return list(graph.output_node().args[0])  # type: ignore[arg-type] # a row, always


def constant_of(node: fx.Node) -> torch.Tensor | None:
    """The tensor that the forward made itself, where the node stands for one."""
    constant: torch.Tensor | None = node.meta.get(CONSTANT)
    return constant


def function_of(model: nn.Module, node: fx.Node) -> Callable[..., Any]:
    """What a node of a graph of this model does to its arguments, in its region."""
    region = region_of(node)
    function = _bare_function(model, node)
    return function if region == OUTSIDE else region.around(function)


def _bare_function(model: nn.Module, node: fx.Node) -> Callable[..., Any]:
    target: Any = node.target
    if node.op == "call_function":
        return target  # type: ignore[no-any-return] # a call_function node's target is the function
    if node.op == "call_module":
        return model.get_submodule(target)
    if node.op == "get_attr":
        constant = constant_of(node)
        return lambda: attrgetter(target)(model) if constant is None else constant
    return lambda receiver, *rest, **keyword: methodcaller(target, *rest, **keyword)(receiver)
