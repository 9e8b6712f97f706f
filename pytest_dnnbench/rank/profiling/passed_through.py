"""What crosses cuts beside the results that later operators use: the model's inputs, which the
first stage hands on to where they are used, and parts of its output, which travel to the last.

Not here: which values enter a stage (pipeline/stage_graph.py).
"""

from typing import Any

import torch
from torch import fx

from pytest_dnnbench.planner.profile import ModelInput
from pytest_dnnbench.rank.profiling.fx_calls import fed, returned
from pytest_dnnbench.rank.profiling.operator_graph import OperatorGraph


def inputs_of(graph: OperatorGraph, inputs: Any) -> tuple[ModelInput, ...]:
    """The tensors of a minibatch's inputs, with the operators that use each, or no more of it than
    its size. One that the model returns is used by its last operator."""
    row: dict[fx.Node, torch.Tensor] = fed(graph.training, graph.inputs.row(inputs))
    operators = set(graph.operators)
    reached: dict[fx.Node, set[fx.Node]] = {node: {node} for node in row}
    users: dict[fx.Node, dict[str, None]] = {node: {} for node in row}
    for node in graph.training.nodes:
        if node in row:
            continue
        reached[node] = set()
        for value in node.all_input_nodes:
            if value.name not in operators:
                reached[node] |= reached[value]
        for source in reached[node]:
            if node.name in operators:
                users[source][node.name] = None
            elif node.op == "output":
                users[source][graph.operators[-1]] = None
    return tuple(
        ModelInput(node.name, tensor.nbytes, tuple(users[node])) for node, tensor in row.items()
    )


def outputs_of(graph: OperatorGraph) -> tuple[str, ...]:
    """The operators that make the tensors of the model's output."""
    makers = (graph.items.get(node.name, node.name) for node in returned(graph.training))
    return tuple(dict.fromkeys(name for name in makers if name in set(graph.operators)))
