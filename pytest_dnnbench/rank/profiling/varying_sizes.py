"""Operators whose results have a size that depends on values, as the tokens that a router sends to
an expert.

Messages of torch's pipeline schedules have one size in all minibatches, so such a result cannot
cross a cut. It is found by running several minibatches of one size. Most models need none of that:
they run on tensors that have sizes and no values (torch's fake tensors), and what can be computed
so depends on no value. Not here: which cuts there are instead (planner/).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.plan import Plan
from pytest_dnnbench.rank.profiling.fx_calls import calls, fed
from pytest_dnnbench.rank.profiling.operator_graph import OperatorGraph
from pytest_dnnbench.rank.workloads.model_copy import copied
from pytest_dnnbench.rank.workloads.structure import mapped

Group = tuple[str, ...]


def of_varying_sizes(graph: OperatorGraph, examples: Sequence[Any]) -> tuple[Group, ...]:
    """By operator whose result has another size in one of these minibatches than in another: the
    operator with all that take the result. Each such group has to run on one stage.

    `examples` are inputs of one size, on the model's device.
    """
    if _needs_no_values(graph, examples[0]):
        return ()
    sizes = [_sizes(graph, example) for example in examples]
    varying = {
        graph.items.get(name, name)
        for name, first in sizes[0].items()
        if any(other[name] != first for other in sizes[1:])
    }
    takers: dict[str, dict[str, None]] = {}
    for source, target in graph.edges:
        if source in varying:
            takers.setdefault(source, {source: None})[target] = None
    return tuple(tuple(group) for group in takers.values())


def check_sizes(plan: Plan, groups: Sequence[Group]) -> None:
    """Raises PlanError where a plan cuts one of these groups apart."""
    home = {name: number for number, stage in enumerate(plan.stages) for name in stage.operators}
    for source, *takers in groups:
        for taker in takers:
            if home.get(source) != home.get(taker):
                raise PlanError(
                    f"the plan cuts between {source!r} and {taker!r}, and the size of what passes"
                    " there depends on values: messages of torch's schedules have one size, so"
                    " plan anew, give --dnn-stages instead of a plan, or use pipedream or"
                    " pipedream-flush"
                )


def _needs_no_values(graph: OperatorGraph, example: Any) -> bool:
    """Whether the operators give results for inputs that have a size and no values. Of one that
    does not, or of which torch does not know how it would, nothing follows."""
    try:
        _sizes(graph, example, FakeTensorMode(allow_non_fake_inputs=True))
    except Exception:  # a user's operators may fail in any way
        return False
    return True


def _sizes(
    graph: OperatorGraph, example: Any, mode: AbstractContextManager[object] | None = None
) -> dict[str, tuple[torch.Size, ...]]:
    """By node, the sizes of the tensors in its result; where a `mode` is given, in that."""
    model = copied(graph.model).train()
    row = graph.inputs.row(mapped(example, torch.clone))
    values = fed(graph.training, row)
    sizes: dict[str, tuple[torch.Size, ...]] = {}
    devices = [row[0].device] if row[0].is_cuda else []
    with torch.no_grad(), torch.random.fork_rng(devices), mode or nullcontext():
        for call in calls(model, graph.training):
            positional, keyword = call.arguments(values)
            values[call.node] = result = call.function(*positional, **keyword)
            del positional, keyword
            sizes[call.node.name] = tuple(
                leaf.shape for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)
            )
            for dead in call.frees:
                del values[dead]
    return sizes
