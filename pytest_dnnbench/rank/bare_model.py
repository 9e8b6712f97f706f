"""A model with all its weights and none of its operators. What is left of a framework's step on it
is what the framework adds: hooks, copies, collectives, the update.

    root's weights ─> weights of block 1 ─> ... ─> weights of the last block ─> a number

Each part "uses" its weights in the forward pass, and in the backward pass every weight that is
trained gets a gradient of ones. So a framework gathers, averages and updates what it would in a
real step, in the same order and in tensors of the same sizes and types. Between its turns a real
model computes, and what the framework needs has left the core's caches: here a large tensor goes
through them. The time of all that is the model's own, and is known.

Not here: which step is timed on it (trial_steps.py).
"""

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import nn

EVICTED_BYTES = 16 * 2**20
"""What goes through the caches at every part, once in each pass: several times as large as the
caches of a core, and about what a block computes on."""

_Owner = tuple[nn.Module, str]
"""A module and the name of a parameter of its own: frameworks replace the parameter itself."""


class BareModel:
    """Takes the operators out of a module on the host, in place: `blocks` are the names of its
    parts that a framework wraps. The module then takes one tensor of any shape and gives a scalar.

    own_s    seconds that the model itself has taken since it was last set to 0
    clock    what reads them
    """

    def __init__(self, module: nn.Module, blocks: Sequence[str]) -> None:
        self.own_s = 0.0
        self.clock: Callable[[], float] = perf_counter
        self._evicted = torch.ones(EVICTED_BYTES // 4)
        self._blocks = [module.get_submodule(name) for name in blocks]
        parts = [module, *self._blocks]
        for part, owners in zip(parts, _owners(module, blocks), strict=True):
            part.forward = partial(self._use, owners)
        module.forward = partial(self._whole, module.forward)

    def _whole(self, root: Any, start: torch.Tensor) -> torch.Tensor:
        """The forward pass: the root's part, then the blocks'."""
        for part in (root, *self._blocks):
            start = part(start)
        return start.sum()

    def _use(self, owners: Sequence[_Owner], stream: torch.Tensor) -> torch.Tensor:
        weights = [getattr(module, name) for module, name in owners]
        used: torch.Tensor = _Use.apply(self, stream, *weights)  # type: ignore[no-untyped-call] # torch's gap
        return used

    def compute(self) -> None:
        """What stands for a part's operators."""
        self._evicted.mul_(1.0)


class _Use(torch.autograd.Function):
    """Passes a tensor on, and gives weights their gradients."""

    @staticmethod
    def forward(
        context: Any, model: BareModel, stream: torch.Tensor, *weights: torch.Tensor
    ) -> torch.Tensor:
        start_s = model.clock()
        context.model = model
        context.save_for_backward(*weights)
        model.compute()
        result = stream.clone()
        model.own_s += model.clock() - start_s
        return result

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        model: BareModel = context.model
        start_s = model.clock()
        model.compute()
        weights = zip(context.saved_tensors, context.needs_input_grad[2:], strict=True)
        ones = [torch.ones_like(weight) if trained else None for weight, trained in weights]
        model.own_s += model.clock() - start_s
        return None, gradient, *ones


def _owners(module: nn.Module, blocks: Sequence[str]) -> list[list[_Owner]]:
    """The parameters of the root's part and of each block. One that two parts have is the first's,
    and one of a block inside another is the inner one's."""
    owners: list[list[_Owner]] = [[] for _ in range(1 + len(blocks))]
    for path, _ in module.named_parameters():
        home, _, name = path.rpartition(".")
        inside = [block for block in blocks if f"{home}.".startswith(f"{block}.")]
        number = 1 + blocks.index(max(inside, key=len)) if inside else 0
        owners[number].append((module.get_submodule(home), name))
    return owners
