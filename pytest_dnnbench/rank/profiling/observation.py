"""What each node of a traced graph does to tensors, from a run of an example through a copy of the
model.

The version counters of the tensors show in-place operators: an operator has written to every tensor
whose counter it raises, be it `relu(inplace=True)`, `+=` or a block of the user's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.profiling.example_input import Example
from pytest_dnnbench.rank.profiling.fx_calls import calls, constant_of, fed, returned
from pytest_dnnbench.rank.workloads.model_copy import copied
from pytest_dnnbench.rank.workloads.structure import mapped, tensors_of


@dataclass(frozen=True, slots=True)
class NodeObservation:
    """What one node did in the example.

    is_tensor     its result is one tensor
    parts         the number of tensors, where its result is a tuple or list of tensors; else None
    is_mixed      its result has tensors in it, but nested, or beside other things
    overwrites    names of the earlier values that it changed in place, parameters excepted
    returns       the name of the input that it changed in place and also returned
    operations    floating-point operations, plus elements of the result
    """

    is_tensor: bool = False
    parts: int | None = None
    is_mixed: bool = False
    overwrites: frozenset[str] = frozenset()
    returns: str | None = None
    operations: int = 0


def observe(
    model: nn.Module, graphs: dict[bool, fx.Graph], example: Example
) -> dict[str, NodeObservation]:
    """Observations by node name, of training and evaluation (the keys of `graphs`: True and False)
    taken together; of what training alone runs, that of training.

    Runs on copies of the model and restores torch's generators, so nothing is changed afterwards.
    Raises UsageError if the evaluation graph computes something other than the model itself.
    """
    of_mode, on_gpu = {}, example.device.type == "cuda"
    with torch.random.fork_rng([example.device] if on_gpu else []), torch.no_grad():
        for mode, graph in graphs.items():
            row = tensors_of(mapped(example.inputs, torch.clone))
            of_mode[mode], result = _observe(copied(model).train(mode), graph, list(row))
        _check_same(copied(model).eval(), example, result)
    return {
        name: _together(training, of_mode[False].get(name, training), name)
        for name, training in of_mode[True].items()
    }


def _check_same(model: nn.Module, example: Example, result: Sequence[Any]) -> None:
    """Raises UsageError where the traced graph gives another result than the model: tracing misses,
    for instance, a change through a second reference."""
    expected = tensors_of(example.forward(model, mapped(example.inputs, torch.clone)))
    # What is no tensor in the graph is refused later, by its name.
    for ours, theirs in zip(result, expected, strict=False):
        if not isinstance(ours, torch.Tensor) or ours.shape != theirs.shape:
            continue
        ours, theirs = ours.to(torch.float64), theirs.to(torch.float64)
        if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3, equal_nan=True):
            raise UsageError(
                f"{type(model).__name__} computes something else when traced (largest difference"
                f" {(ours - theirs).abs().max():.3g}): does it change a tensor in place that it"
                " uses under another name, or draw random numbers in evaluation? Mark that block as"
                " a leaf (`pipeline_leaf = True`)"
            )


def _observe(
    model: nn.Module, graph: fx.Graph, row: Sequence[torch.Tensor]
) -> tuple[dict[str, NodeObservation], Sequence[Any]]:
    """The observations of one run, and the values that the graph returns."""
    values = fed(graph, row)
    watch = _WriteWatch()
    observed = {graph.output_node().name: NodeObservation()}
    for placeholder, tensor in values.items():
        watch.add(placeholder, tensor)
        observed[placeholder.name] = NodeObservation(is_tensor=True)
    for call in calls(model, graph):
        positional, keyword = call.arguments(values)
        with FlopCounterMode(display=False) as counter:
            result = call.function(*positional, **keyword)
        written = watch.written()
        _check_unchanged(call.node, written)
        overwritten = frozenset(value.name for value in written)
        passed_on = [value.name for value in call.node.all_input_nodes if values[value] is result]
        values[call.node] = result
        watch.add(call.node, result)
        observed[call.node.name] = NodeObservation(
            is_tensor=isinstance(result, torch.Tensor),
            parts=_parts(result),
            is_mixed=_is_mixed(result),
            overwrites=overwritten,
            returns=next((name for name in passed_on if name in overwritten), None),
            operations=counter.get_total_flops()
            + sum(tensor.numel() for tensor in _tensors(result)),
        )
    return observed, [values[node] for node in returned(graph)]


def _check_unchanged(node: fx.Node, overwritten: list[fx.Node]) -> None:
    """Raises UsageError where a node writes to what its next run would meet: a constant of the
    graph, or the model, by an operation that no stage would run."""
    for value in overwritten:
        if constant_of(value) is not None:
            raise UsageError(
                f"operation {node.name!r} changes a tensor in place that the forward makes without"
                " the images: make it from their size (torch.zeros(images.shape[1:])), or mark the"
                " block as a leaf (`pipeline_leaf = True`)"
            )
        if value.op == "get_attr" and not node.users:
            raise UsageError(
                f"operation {node.name!r} changes {value.target} and nothing uses its result, so no"
                " stage would run it: mark the block as a leaf (`pipeline_leaf = True`)"
            )


def _together(training: NodeObservation, evaluation: NodeObservation, name: str) -> NodeObservation:
    kinds = [(mode.is_tensor, mode.parts, mode.is_mixed) for mode in (training, evaluation)]
    if kinds[0] != kinds[1]:
        raise UsageError(
            f"operation {name!r} returns something else in training than in evaluation:"
            " let it return the same kind of result"
        )
    return NodeObservation(
        training.is_tensor,
        training.parts,
        training.is_mixed,
        training.overwrites | evaluation.overwrites,
        training.returns or evaluation.returns,
        training.operations,
    )


class _WriteWatch:
    """Tells which of a run's values an operator has written to.

    Every operator is followed by a look at the values of all before it, so a look is made cheap: a
    value that is one tensor is only asked for its counter. Tuples and lists are few, and taken
    apart anew, since an operator may put other tensors into a list.
    """

    def __init__(self) -> None:
        self._nodes: list[fx.Node] = []
        self._tensors: list[torch.Tensor] = []
        self._versions: list[int] = []
        self._containers: dict[fx.Node, object] = {}
        self._inside: dict[fx.Node, list[int]] = {}

    def add(self, node: fx.Node, value: object) -> None:
        """Watches the value of a node from here on."""
        if isinstance(value, torch.Tensor):
            self._nodes.append(node)
            self._tensors.append(value)
            self._versions.append(value._version)
        elif _tensors(value) or isinstance(value, (list, dict)):
            self._containers[node] = value
            self._inside[node] = _versions(value)

    def written(self) -> list[fx.Node]:
        """The nodes whose values were written to since the last call."""
        before, self._versions = self._versions, [tensor._version for tensor in self._tensors]
        changed: list[fx.Node] = []
        if before != self._versions:
            rows = zip(self._nodes, before, self._versions, strict=True)
            changed = [node for node, old, new in rows if old != new]
        for node, value in self._containers.items():
            old, self._inside[node] = self._inside[node], _versions(value)
            if old != self._inside[node]:
                changed.append(node)
        return changed


def _versions(value: object) -> list[int]:
    return [tensor._version for tensor in _tensors(value)]


def _tensors(value: object) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _parts(value: object) -> int | None:
    if not isinstance(value, (tuple, list)) or not value:
        return None
    return len(value) if all(isinstance(part, torch.Tensor) for part in value) else None


def _is_mixed(value: object) -> bool:
    return not isinstance(value, torch.Tensor) and _parts(value) is None and bool(_tensors(value))
