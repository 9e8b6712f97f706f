"""A model with all its weights and none of its operators. What is left of a framework's step on it
is what the framework adds: hooks, copies, collectives, the update.

    root's weights ─> weights of block 1 ─> ... ─> weights of the last block ─> a number

Each part "uses" its weights in the forward pass, and in the backward pass every weight that is
trained gets a gradient of ones. So a framework gathers, averages and updates what it would in a
real step, in the same order and in tensors of the same sizes and types. Between its turns a real
model computes, and what the framework needs has left the core's caches: here a large tensor goes
through them. The time of all that is the model's own, and is known.

A framework may exchange what is there, whenever it looks: Horovod's thread averages together the
gradients that have come since its last round, while the backward pass goes on. For such a one the
gradients come as in the real step:

    ─> weight that comes last ─> ... ─> weight that comes first ─> a number

Each part then computes, in the backward pass, for as long as the model did before that gradient.
That is a time of the thread's: what the framework's own thread takes of the core meanwhile, the
model has to wait for, and that is the framework's.

Not here: which step is timed on it (trial_steps.py).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from time import perf_counter, thread_time
from typing import Any

import torch
from torch import nn

EVICTED_BYTES = 16 * 2**20
"""What goes through the caches at every part, once in each pass: several times as large as the
caches of a core, and about what a block computes on."""

_CHUNK_BYTES = 2**18
"""What goes through the caches between two looks at the clock: some ten microseconds."""

Arrival = tuple[str, float]
"""The gradient of a parameter, by its name, and the seconds of compute since the one before it, or
since the backward pass began."""

_Owner = tuple[nn.Module, str]
"""A module and the name of a parameter of its own: frameworks replace the parameter itself."""


class BareModel:
    """Takes the operators out of a module on the host, in place: `blocks` are the names of its
    parts that a framework wraps, `pace` is when gradients come, first to last, where that matters
    and no blocks are wrapped. The module then takes one tensor of any shape and gives a scalar.

    own_s    seconds that the model itself has taken since it was last set to 0
    clock    what reads them
    """

    def __init__(
        self, module: nn.Module, blocks: Sequence[str], pace: Sequence[Arrival] = ()
    ) -> None:
        self.own_s = 0.0
        self.clock: Callable[[], float] = thread_time if pace else perf_counter
        self._evicted = torch.ones(EVICTED_BYTES // 4)
        self._chunks: Iterator[torch.Tensor] = cycle(torch.split(self._evicted, _CHUNK_BYTES // 4))
        if pace:
            module.forward = partial(self._paced, [(_owner(module, n), s) for n, s in pace[::-1]])
            return
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

    def _paced(self, parts: Sequence[tuple[_Owner, float]], start: torch.Tensor) -> torch.Tensor:
        """The forward pass of parts with one weight each, in which a framework waits."""
        for owner, seconds in parts:
            start = self._use([owner], start, seconds)
        return start.sum()

    def _use(
        self, owners: Sequence[_Owner], stream: torch.Tensor, seconds: float | None = None
    ) -> torch.Tensor:
        weights = [getattr(module, name) for module, name in owners]
        used: torch.Tensor = _Use.apply(self, seconds, stream, *weights)  # type: ignore[no-untyped-call] # torch's gap
        return used

    def compute(self) -> None:
        """What stands for a part's operators."""
        self._evicted.mul_(1.0)

    def compute_until(self, end_s: float) -> None:
        """What stands for the operators before a gradient, until this reading of the clock."""
        while self.clock() < end_s:
            next(self._chunks).mul_(1.0)


class _Use(torch.autograd.Function):
    """Passes a tensor on, and gives weights their gradients."""

    @staticmethod
    def forward(
        context: Any,
        model: BareModel,
        seconds: float | None,
        stream: torch.Tensor,
        *weights: torch.Tensor,
    ) -> torch.Tensor:
        start_s = model.clock()
        context.model, context.seconds = model, seconds
        context.save_for_backward(*weights)
        if seconds is None:
            model.compute()
        result = stream.clone()
        model.own_s += model.clock() - start_s
        return result

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        model: BareModel = context.model
        start_s = model.clock()
        if context.seconds is None:
            model.compute()
        weights = zip(context.saved_tensors, context.needs_input_grad[3:], strict=True)
        ones = [torch.ones_like(weight) if trained else None for weight, trained in weights]
        if context.seconds is not None:
            model.compute_until(start_s + context.seconds)
        model.own_s += model.clock() - start_s
        return None, None, gradient, *ones


def _owners(module: nn.Module, blocks: Sequence[str]) -> list[list[_Owner]]:
    """The parameters of the root's part and of each block. One that two parts have is the first's,
    and one of a block inside another is the inner one's."""
    owners: list[list[_Owner]] = [[] for _ in range(1 + len(blocks))]
    for path, _ in module.named_parameters():
        home, _, _ = path.rpartition(".")
        inside = [block for block in blocks if f"{home}.".startswith(f"{block}.")]
        number = 1 + blocks.index(max(inside, key=len)) if inside else 0
        owners[number].append(_owner(module, path))
    return owners


def _owner(module: nn.Module, path: str) -> _Owner:
    home, _, name = path.rpartition(".")
    return module.get_submodule(home), name
