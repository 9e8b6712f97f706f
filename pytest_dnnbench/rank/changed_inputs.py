"""Blocks of a model that change their inputs in place, and the copies that they get instead.

    value ─> [ block: relu_(value), linear ] ─> ...      a plain model may do that, but not where
                                                         value is kept for the backward pass

fully_shard passes a block's inputs through a function of its own, whose outputs autograd lets
nobody change; a block that is checkpointed runs again on the inputs of its first run. Such a block
works on a copy of what it changes, as a function that is not in place would make one. All other
blocks take their inputs as they are.

Which blocks these are shows in a trial: a pass of the plain model, in which every tensor counts its
changes. Not here: which parts are blocks (workloads/workload.py), how they are wrapped
(step_forms.py, frameworks/fsdp.py).
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.lone_forward import outputs_of
from pytest_dnnbench.rank.randomness import NoRandomness
from pytest_dnnbench.rank.workloads.batches import mapped
from pytest_dnnbench.rank.workloads.model_copy import copied
from pytest_dnnbench.rank.workloads.workload import Workload, tensors_of

Pass = Callable[[nn.Module], Any]
"""Runs a model once and returns its output."""

Places = Mapping[str, frozenset[int | str]]
"""By block: the places of the arguments that it changes, by number or by name."""

ROUNDING = 2.0**-5
"""What a copy may change of the output, relative to its largest element: its layout, and so the
order of a few sums, in bfloat16 at the worst. What it may not is far larger."""


def copy_changed_inputs(
    module: nn.Module, workload: Workload, blocks: Sequence[str], run: Pass
) -> list[str]:
    """Gives those of a plain module's blocks that change their inputs in place copies to work on.
    Returns their names. `run` runs a module as it is trained; the trials are on copies of the
    module that share its weights. Raises UsageError where the model goes on with what a block left
    in its input, which copies would hide from it."""
    trial = _trial_copy(module)
    with torch.no_grad(), NoRandomness():
        watch = _Watch(trial, blocks)
        before = outputs_of(workload, run(trial))
        changed = watch.changed()
    if not changed:
        return []
    _put_copies(module, changed)
    trial = _trial_copy(module)
    _put_copies(trial, changed)
    with torch.no_grad(), NoRandomness():
        after = outputs_of(workload, run(trial))
    if not all(_alike(before[name], after[name]) for name in before):
        raise UsageError(
            f"the model goes on with what {' or '.join(map(repr, changed))} left in its input,"
            " which it changes in place, and a block that is sharded or checkpointed works on a"
            " copy: take functions that are not in place there (inplace=False), or name other parts"
            " in Workload.blocks"
        )
    return [*changed]


def _trial_copy(module: nn.Module) -> nn.Module:
    return copied(module, sharing=module.parameters())


def _alike(before: torch.Tensor, after: torch.Tensor) -> bool:
    bound = ROUNDING * float(before.abs().max()) if before.numel() else 0.0
    return torch.allclose(before, after, rtol=0.0, atol=bound, equal_nan=True)


def _put_copies(module: nn.Module, changed: Places) -> None:
    for name, places in changed.items():
        block = module.get_submodule(name)
        block.forward = _on_copies(block.forward, places)


def _on_copies(forward: Callable[..., Any], places: frozenset[int | str]) -> Callable[..., Any]:
    """A forward pass on copies of the arguments in these places."""

    def forward_on_copies(*inputs: Any, **named: Any) -> Any:
        own = [
            mapped(value, torch.clone) if place in places else value
            for place, value in enumerate(inputs)
        ]
        own_named = {
            name: mapped(value, torch.clone) if name in places else value
            for name, value in named.items()
        }
        return forward(*own, **own_named)

    return forward_on_copies


@dataclass(frozen=True, slots=True)
class _Sight:
    """A tensor in a place of a block's arguments, and how often it had been changed by then."""

    block: str
    place: int | str
    tensor: torch.Tensor
    version: int

    @property
    def is_changed(self) -> bool:
        """Whether it, or a view of it, has been changed since."""
        return self.tensor._version != self.version


class _Watch:
    """Notes which blocks change their inputs in a pass of the model. A block that hands its input
    on, or a view of it, has changed it if anybody does."""

    def __init__(self, module: nn.Module, blocks: Sequence[str]) -> None:
        self._open: dict[str, list[_Sight]] = {}
        self._handed_on: list[_Sight] = []
        self._changed: defaultdict[str, set[int | str]] = defaultdict(set)
        for name in blocks:
            block = module.get_submodule(name)
            block.register_forward_pre_hook(self._entering(name), with_kwargs=True)
            block.register_forward_hook(self._leaving(name))

    def changed(self) -> Places:
        """The arguments that were changed, after the pass."""
        for sight in self._handed_on:
            self._note(sight)
        return {block: frozenset(places) for block, places in self._changed.items()}

    def _entering(self, name: str) -> Callable[..., None]:
        def enter(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            numbered: list[tuple[int | str, Any]] = [*enumerate(inputs)]
            self._open[name] = [
                _Sight(name, place, tensor, tensor._version)
                for place, value in [*numbered, *named.items()]
                for tensor in tensors_of(value)
            ]

        return enter

    def _leaving(self, name: str) -> Callable[..., None]:
        def leave(_: nn.Module, inputs: object, output: Any) -> None:
            results = {each.untyped_storage().data_ptr() for each in tensors_of(output)}
            for sight in self._open.pop(name):
                self._note(sight)
                tensor = sight.tensor
                if tensor.untyped_storage().data_ptr() in results:
                    self._handed_on.append(_Sight(name, sight.place, tensor, tensor._version))

        return leave

    def _note(self, sight: _Sight) -> None:
        if sight.is_changed:
            self._changed[sight.block].add(sight.place)
