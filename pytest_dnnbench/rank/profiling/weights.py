"""Which weights each operator uses, and which operators have to run on one stage.

Two operators that use the same parameter run on one stage: it has one owner, which updates it. The
same goes for a buffer that one of them may write to, and for a value that an operator changes
behind its name. A buffer that the forward only reads may be on several stages. Reading no more than
the dtype or the size of a weight is no use of it.
"""

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import fx, nn

from pytest_dnnbench.rank.profiling.operator_graph import OperatorGraph
from pytest_dnnbench.rank.profiling.tracer import METADATA


def tensors_used(graph: OperatorGraph) -> dict[str, list[torch.Tensor]]:
    """By operator, the model's parameters and buffers that it uses, in order of use.

    A node that is no operator passes what it uses on: arithmetic on a parameter counts for every
    operator that takes the result.
    """
    operators = set(graph.operators)
    reached: dict[fx.Node, list[torch.Tensor]] = {}
    for node in graph.training.nodes:
        if is_metadata(node):
            reached[node] = []
            continue
        reached[node] = _held(graph.model, node)
        for value in node.all_input_nodes:
            if value.name not in operators:
                reached[node] += reached[value]
    return {node.name: used for node, used in reached.items() if node.name in operators}


def block_of(graph: OperatorGraph, blocks: Sequence[str]) -> dict[str, str]:
    """By operator, the block that has the first of its parameters; operators without parameters,
    and those whose parameter no block has, are left out. A shared parameter counts as that of its
    first name."""
    names = {id(parameter): name for name, parameter in graph.model.named_parameters()}
    inside: dict[str, str] = {}
    for operator, tensors in tensors_used(graph).items():
        name = next((names[id(each)] for each in tensors if id(each) in names), "")
        block = next((each for each in blocks if name.startswith(f"{each}.")), None)
        if block is not None:
            inside[operator] = block
    return inside


def read_only_buffers(graph: OperatorGraph) -> set[int]:
    """The ids of the buffers that the forward reads by name only, and never writes to."""
    written = {name for observation in graph.observed.values() for name in observation.overwrites}
    inside_leaves: set[int] = set()
    read: set[int] = set()
    for node in graph.training.nodes:
        for tensor in _held(graph.model, node):
            if node.op == "call_module" or node.name in written:
                inside_leaves.add(id(tensor))
            elif not isinstance(tensor, nn.Parameter):
                read.add(id(tensor))
    return read - inside_leaves


def tied_weights(graph: OperatorGraph) -> set[int]:
    """The ids of the parameters that different modules have in common, each of them called once: a
    stage could have a copy, where all stages update at once."""
    modules: dict[int, list[nn.Module]] = {}
    elsewhere: set[int] = set()
    for node in graph.training.nodes:
        for tensor in _held(graph.model, node):
            if node.op == "call_module" and isinstance(tensor, nn.Parameter):
                called = graph.model.get_submodule(str(node.target))
                modules.setdefault(id(tensor), []).append(called)
            else:
                elsewhere.add(id(tensor))
    return {
        key
        for key, called in modules.items()
        if len(called) > 1 and len(set(map(id, called))) == len(called)
    } - elsewhere


def together(graph: OperatorGraph, apart: Collection[int] = ()) -> tuple[tuple[str, ...], ...]:
    """Groups of operators, each in program order, that have to run on one stage. The users of the
    weights whose ids are in `apart` need not."""
    users: dict[int, dict[str, None]] = {}
    anywhere = read_only_buffers(graph) | set(apart)
    for name, tensors in tensors_used(graph).items():
        for tensor in tensors:
            if id(tensor) not in anywhere:
                users.setdefault(id(tensor), {})[name] = None
    groups = dict.fromkeys(tuple(names) for names in users.values())
    groups |= dict.fromkeys(_changed_behind_their_names(graph))
    return tuple(group for group in groups if len(group) > 1)


def is_metadata(node: fx.Node) -> bool:
    """Whether a node reads the size, dtype or device of a tensor, and none of its values."""
    if node.op == "call_method":
        return node.target in METADATA
    return node.op == "call_function" and node.target is getattr and node.args[1] in METADATA


def _held(model: nn.Module, node: fx.Node) -> list[torch.Tensor]:
    """The parameters and buffers that a node itself uses."""
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        return [*module.parameters(), *module.buffers()]
    if node.op == "get_attr":
        path, _, name = str(node.target).rpartition(".")
        module = model.get_submodule(path)
        held: dict[str, torch.Tensor | None] = {**module._parameters, **module._buffers}
        tensor = held.get(name)
        return [] if tensor is None else [tensor]
    return []


def _changed_behind_their_names(graph: OperatorGraph) -> Iterator[tuple[str, ...]]:
    """The operators around a value that one of them changes through a view of it, where a later one
    uses the value: across a cut it would get the former value."""
    nodes = list(graph.training.nodes)
    named = {node.name: node for node in nodes}
    position = {node: index for index, node in enumerate(nodes)}
    for node in nodes:
        observation = graph.observed[node.name]
        changed = [named[name] for name in observation.overwrites]
        behind = [value for value in changed if value.name != observation.returns]
        if any(position[user] > position[node] for value in behind for user in value.users):
            around = {node, *changed, *(user for value in changed for user in value.users)}
            names = {graph.items.get(each.name, each.name) for each in around}
            yield tuple(name for name in graph.operators if name in names)
