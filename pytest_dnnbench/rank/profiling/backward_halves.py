"""What a backward pass takes in two parts, as the zero-bubble schedules of torch make it: first the
gradients of the inputs, for which others wait, then those of the weights.

Together they take longer than a whole backward pass: what lies between two weights, as an
activation function or a normalisation, is passed through in both. Not here: which schedule splits
(planner/orders.py).
"""

import itertools
import statistics
from typing import Any

import torch
from torch import nn

from pytest_dnnbench.rank.stopwatch import stopwatch

WARMUP, REPETITIONS = 1, 3


def halves_facts(model: nn.Module, inputs: Any) -> dict[str, list[float]]:
    """`halves`: the two parts, each over the time of a whole backward pass, in turn with it.

    Tokens have no gradient: for them the first embedding's output is where the model begins, as for
    a stage that gets it. Empty for other inputs without gradients, and for a model or a torch of
    which the parts cannot be timed. Running statistics move; gradients are cleared.
    """
    if not isinstance(inputs, torch.Tensor):
        return {}
    try:
        passes = [_timed(model, inputs) for _ in range(WARMUP + REPETITIONS)][WARMUP:]
    except Exception:  # torch's functions are internal, and a model may do anything
        return {}
    finally:
        model.zero_grad(set_to_none=True)
    whole_s, first_s, second_s = (statistics.median(each) for each in zip(*passes, strict=True))
    return {"halves": [first_s / whole_s, second_s / whole_s]} if whole_s > 0 else {}


def _timed(model: nn.Module, inputs: torch.Tensor) -> tuple[float, float, float]:
    """Seconds of a whole backward pass, and of the two parts of another."""
    from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight

    watch = stopwatch(inputs.device)
    loss, _ = _forward(model, inputs)
    marks = [watch.mark()]
    loss.backward()  # type: ignore[no-untyped-call] # torch's gap
    marks.append(watch.mark())
    loss, entering = _forward(model, inputs)
    marks.append(watch.mark())
    weights = [each for each in model.parameters() if each.requires_grad]
    _, groups = stage_backward_input([loss], None, [entering], iter(weights))
    marks.append(watch.mark())
    stage_backward_weight(iter(weights), groups)
    marks.append(watch.mark())
    watch.settle()
    begin, end, *parts = marks
    first, second = itertools.pairwise(parts)
    return watch.seconds(begin, end), watch.seconds(*first), watch.seconds(*second)


def _forward(model: nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A number, and the inputs that it was made from, or what was made of tokens, which take a
    gradient. Raises ValueError for tokens that no embedding takes."""
    model.zero_grad(set_to_none=True)
    entering: list[torch.Tensor] = []

    def enter(tensor: torch.Tensor) -> torch.Tensor:
        entering.append(tensor.detach().clone().requires_grad_())
        return entering[0]

    def embed(_: nn.Module, __: Any, embedded: torch.Tensor) -> torch.Tensor | None:
        return None if entering else enter(embedded)

    if inputs.is_floating_point():
        inputs = enter(inputs)
    tables = [each for each in model.modules() if isinstance(each, nn.Embedding)]
    hooks = [table.register_forward_hook(embed) for table in tables]
    try:
        number: torch.Tensor = model.train()(inputs).sum()
    finally:
        for hook in hooks:
            hook.remove()
    if not entering:
        raise ValueError("no embedding takes these inputs")
    return number, entering[0]
