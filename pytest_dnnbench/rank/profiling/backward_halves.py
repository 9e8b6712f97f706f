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

    Empty for inputs that have no gradient, as tokens, and for a model or a torch of which the parts
    cannot be timed. Running statistics move; gradients are cleared.
    """
    if not (isinstance(inputs, torch.Tensor) and inputs.is_floating_point()):
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
    """A number, and the inputs that it was made from, which take a gradient."""
    model.zero_grad(set_to_none=True)
    entering = inputs.detach().clone().requires_grad_()
    number: torch.Tensor = model.train()(entering).sum()
    return number, entering
