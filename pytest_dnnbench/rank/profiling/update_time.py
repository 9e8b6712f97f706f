"""The part of a step after its passes: how long the optimiser takes, and the state that it keeps.

Not here: how a framework updates (rank/update_rule.py, which this runs).
"""

import statistics
from collections.abc import Sequence

import torch
from torch import nn

from pytest_dnnbench.rank.pipeline.sgd import Sgd
from pytest_dnnbench.rank.profiling.head_start import gpu_head_start, has_head_start
from pytest_dnnbench.rank.step_forms import fuse
from pytest_dnnbench.rank.stopwatch import stopwatch
from pytest_dnnbench.rank.update_rule import UpdateRule, optimiser_for
from pytest_dnnbench.rank.workloads.workload import Workload

_SETTINGS = Sgd(learning_rate=0.01, momentum=0.9, weight_decay=5e-4)
"""As in RunRequest. The values do not change the time, but whether there is a momentum does."""

_GRADIENT = 1e-6
"""Of every element: not zero, for which memory need not be there, and no change to speak of."""


def update_facts(
    workload: Workload, model: nn.Module, *, warmup: int, repetitions: int, fused: bool
) -> dict[str, float]:
    """`update_s`, the median seconds of an update of all weights, clipping included; `add_s`, those
    of adding gradients of all weights to others; and `optimiser_bytes`, the size of the optimiser's
    state. The weights move; gradients are cleared afterwards."""
    trained = [each for each in model.parameters() if each.requires_grad]
    if not trained:
        return {"update_s": 0.0, "add_s": 0.0, "optimiser_bytes": 0}
    optimiser = optimiser_for(workload, model, _SETTINGS)
    rule = UpdateRule(workload, model, fuse(optimiser) if fused else optimiser)
    adds_s, updates_s = _timed(trained, rule, warmup + repetitions)
    model.zero_grad(set_to_none=True)
    size = sum(
        value.nbytes
        for state in optimiser.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )
    return {
        "update_s": statistics.median(updates_s[warmup:]),
        "add_s": statistics.median(adds_s[warmup:]),
        "optimiser_bytes": size,
    }


def _timed(
    trained: Sequence[nn.Parameter], rule: UpdateRule, repetitions: int
) -> tuple[list[float], list[float]]:
    """Seconds of each sum of gradients, and of each update."""
    watch = stopwatch(trained[0].device)
    device = trained[0].device
    head = gpu_head_start(device) if has_head_start(device) else None
    sums = [torch.zeros_like(parameter) for parameter in trained]
    updates_s, adds_s = [], []
    for _ in range(repetitions):
        gradients = [torch.full_like(parameter, _GRADIENT) for parameter in trained]
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = gradient
        if head is not None:
            head.begin_pass()
            head.give()
        begin = watch.mark()
        torch._foreach_add_(sums, gradients)
        start = watch.mark()
        rule.update()
        end = watch.mark()
        if head is not None:
            head.end()
        watch.settle()
        adds_s.append(watch.seconds(begin, start))
        updates_s.append(watch.seconds(start, end))
    return adds_s, updates_s
