"""A training pass with a mark between any two operators, and one without marks to compare it with.

    forward   |conv1|bn1|relu|...|fc|    a mark before and after each operator, in program order
    backward  |fc|...|relu|bn1|conv1|    a mark whenever autograd reaches the node of a result

The backward time of an operator goes from the moment when autograd is about to run the node that
made the operator's result, to the moment when it reaches the node of another operator. This works
because autograd runs ready nodes latest first, and the nodes of one operator were made one after
the other. Before every few operators the host gets ahead of a GPU (head_start.py), outside of all
times. An operator that returns its input unchanged has no node, and so no backward time. Not
here: repetitions and medians (profiler.py), the clock itself (stopwatch.py).
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from pytest_dnnbench.rank.precision import autocast
from pytest_dnnbench.rank.profiling.example_input import Forward
from pytest_dnnbench.rank.profiling.fx_calls import Call, calls, fed, returned
from pytest_dnnbench.rank.profiling.head_start import NO_HEAD_START, OPERATORS, HeadStart
from pytest_dnnbench.rank.profiling.operator_graph import OperatorGraph
from pytest_dnnbench.rank.stopwatch import Stopwatch
from pytest_dnnbench.rank.workloads.structure import tensors_of
from pytest_dnnbench.rank.workloads.workload import called


@dataclass(slots=True)
class MarkedPass:
    """One training pass with marks. After `run` it has, by operator, the seconds forward and
    backward, and the bytes of the result.

    A node that is no operator, such as arithmetic on a parameter, counts for the operator that
    follows it. `reached` has, for each node in the order of autograd, the marks when the node
    before it ended and when it began itself.
    """

    graph: OperatorGraph
    inputs: Any
    watch: Stopwatch
    precision: str = "fp32"
    head: HeadStart = NO_HEAD_START
    forward_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    backward_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    result_bytes: dict[str, int] = field(default_factory=dict)
    reached: list[tuple[str, Any, Any]] = field(default_factory=list)

    def run(self) -> "MarkedPass":
        """Runs the pass on `inputs`, with gradients of ones. Returns the object itself."""
        self.graph.model.zero_grad(set_to_none=True)
        graph, row = self.graph.training, self.graph.inputs.row(self.inputs)
        values = fed(graph, row)
        with autocast(self.precision, row[0].device):
            spans = []
            for number, call in enumerate(calls(self.graph.model, graph)):
                if number % OPERATORS == 0:
                    self.head.give()
                spans.append(self._forward(call, values))
            self.head.end()
        results = _differentiable(values[node] for node in dict.fromkeys(returned(graph)))
        values.clear()
        gradients = list(map(torch.ones_like, results))
        self.head.give()
        start = self.watch.mark()
        torch.autograd.backward(results, gradients)
        end = self.watch.mark()
        self.head.end()
        self.watch.settle()
        self._share_out(spans, start, end)
        return self

    def _forward(self, call: Call, values: dict[fx.Node, Any]) -> tuple[str, Any, Any]:
        positional, keyword = call.arguments(values)
        start = self.watch.mark()
        values[call.node] = call.function(*positional, **keyword)
        del positional, keyword
        kept = values[call.node]
        for dead in call.frees:
            del values[dead]
        end = self.watch.mark()
        self._await_gradient(call.node.name, kept)
        return call.node.name, start, end

    def _await_gradient(self, name: str, result: object) -> None:
        """Lets autograd mark the moment when it reaches the node that made the result."""
        parts = [part for part in tree_leaves(result) if isinstance(part, torch.Tensor)]
        self.result_bytes[name] = sum(part.nbytes for part in parts)
        for origin in {part.grad_fn for part in parts if part.grad_fn is not None}:
            origin.register_prehook(lambda _: self._reach(name))

    def _reach(self, name: str) -> None:
        """Autograd is about to run the node that made this operator's result."""
        ended = begun = self.watch.mark()
        if self.reached and len(self.reached) % OPERATORS == 0:
            self.head.give()
            begun = self.watch.mark()
        self.reached.append((name, ended, begun))

    def _share_out(self, spans: list[tuple[str, Any, Any]], start: Any, end: Any) -> None:
        """Turns the marks into seconds by operator."""
        operators = set(self.graph.operators)
        waiting = 0.0
        for name, begun, ended in spans:
            waiting += self.watch.seconds(begun, ended)
            if name in operators:
                self.forward_s[name] += waiting
                waiting = 0.0
        later = self.reached[1:]
        names = [name for name, _, _ in self.reached]
        begins = [start, *(begun for _, _, begun in later)]
        ends = [*(ended for _, ended, _ in later), end]
        owner = self.graph.operators[-1]
        for name, begun, ended in zip(names, begins, ends, strict=True):
            owner = name if name in operators else owner
            self.backward_s[owner] += self.watch.seconds(begun, ended)


def _differentiable(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return [each for each in tensors if each.requires_grad]


def whole_pass(
    model: nn.Module,
    inputs: Any,
    watch: Stopwatch,
    precision: str = "fp32",
    head: HeadStart = NO_HEAD_START,
    forward: Forward = called,
) -> float:
    """Seconds of a plain forward and backward pass, with gradients of ones. As in the marked pass,
    making these does not count."""
    model.zero_grad(set_to_none=True)
    head.give()
    start = watch.mark()
    with autocast(precision, next(tensors_of(inputs)).device):
        result = forward(model, inputs)
    forward_end = watch.mark()
    head.end()
    results = _differentiable({id(each): each for each in tensors_of(result)}.values())
    gradients = list(map(torch.ones_like, results))
    head.give()
    backward_start = watch.mark()
    torch.autograd.backward(results, gradients)
    end = watch.mark()
    head.end()
    watch.settle()
    return watch.seconds(start, forward_end) + watch.seconds(backward_start, end)
