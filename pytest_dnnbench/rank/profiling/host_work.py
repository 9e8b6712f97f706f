"""Work that a forward does on the host between its operators: Python, input/output, a sleep.

A graph has operators only, so stages cut from it would leave that work out and be recorded as
faster than the model is. It shows in the time: the forward as the user wrote it takes longer than
its operators one after the other. Not here: the times of operators (profiler.py).
"""

from collections.abc import Callable
from typing import Any

import torch

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.core_clock import seconds_beside_waiting
from pytest_dnnbench.rank.profiling.fx_calls import calls, fed
from pytest_dnnbench.rank.profiling.operator_graph import OperatorGraph
from pytest_dnnbench.rank.workloads.model_copy import copied

TIMES_AS_LONG = 2.0
"""A forward that takes longer than this many times its operators is refused. Calling the operators
one by one takes about as much Python as the forward does. Other work on the machine does not count:
the least of several runs is taken, without its waiting for a core. Less shows in the profile (parts
over whole)."""

LEAST_S = 1e-3
"""Seconds by which it takes longer, at least: below, both are made of function calls."""

_RUNS = (2, 3, 5)
"""Of each, before the next try; a refusal needs all of them."""


def refuse_host_work(
    graph: OperatorGraph,
    inputs: Any,
    clock: Callable[[], float] = seconds_beside_waiting,
) -> None:
    """Raises UsageError where the forward of a model takes much longer than its operators do.
    `inputs` are a minibatch's on the model's device."""
    model = copied(graph.model).train()
    operators = calls(model, graph.training)
    row = graph.inputs.row(inputs)

    def one_by_one() -> None:
        values = fed(graph.training, row)
        for call in operators:
            positional, keyword = call.arguments(values)
            values[call.node] = call.function(*positional, **keyword)
            del positional, keyword
            for dead in call.frees:
                del values[dead]

    def seconds(run: Callable[[], object]) -> float:
        start = clock()
        run()
        if row[0].is_cuda:
            torch.cuda.synchronize(row[0].device)
        return clock() - start

    whole_s = parts_s = float("inf")
    devices = [row[0].device] if row[0].is_cuda else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        for runs in _RUNS:
            for _ in range(runs):
                parts_s = min(parts_s, seconds(one_by_one))
                whole_s = min(whole_s, seconds(lambda: graph.forward(model, inputs)))
            if whole_s <= max(TIMES_AS_LONG * parts_s, parts_s + LEAST_S):
                return
    raise UsageError(_refusal(graph, whole_s, parts_s))


def _refusal(graph: OperatorGraph, whole_s: float, parts_s: float) -> str:
    where = f", most of it before {graph.after_gap}" if graph.after_gap else ""
    return (
        f"the forward of {type(graph.model).__name__} takes {whole_s * 1e3:.3g} ms, and its"
        f" operators {parts_s * 1e3:.3g} ms: the rest is work on the host{where}, which stages of a"
        " pipeline would leave out; move it out of the forward, or mark its block as a leaf"
        " (`pipeline_leaf = True`)"
    )
