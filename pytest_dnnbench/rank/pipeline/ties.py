"""Weights that two stages have in common, as a language model's embedding and head: each stage has
a copy, and the copies get the sum of their gradients before each update, so that they stay equal.

This needs all stages to update at once. Source: Megatron-LM, Narayanan et al., SC 2021. Not here:
which weights may lie in two stages (profiling/weights.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from pytest_dnnbench.rank.whole import part, parted_like

Place = tuple[int, str]
"""A stage, and a name of a parameter in it."""


@dataclass(frozen=True, slots=True)
class Tie:
    """The places of one weight, first stage first: two or more."""

    places: tuple[Place, ...]


def untied(stages: Sequence[nn.Module]) -> tuple[Tie, ...]:
    """Gives each stage a copy of its own of a weight that an earlier stage has, in place."""
    places: dict[int, list[Place]] = {}
    for number, stage in enumerate(stages):
        copies: dict[int, nn.Parameter] = {}
        for name, parameter in list(stage.named_parameters(remove_duplicate=False)):
            key = id(parameter)
            if key in copies or any(stage_of != number for stage_of, _ in places.get(key, ())):
                copies.setdefault(
                    key, nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
                )
                path, _, last = name.rpartition(".")
                stage.get_submodule(path)._parameters[last] = copies[key]
            held = places.setdefault(key, [])
            if all(stage_of != number for stage_of, _ in held):
                held.append((number, name))
    return tuple(Tie(tuple(held)) for held in places.values() if len(held) > 1)


class TiedGradients:
    """The copies of one weight on this rank. All ranks that hold one call `add_up` together;
    `group` has these, None where this is the only one."""

    def __init__(self, copies: Sequence[nn.Parameter], group: dist.ProcessGroup | None) -> None:
        self._copies = copies
        self._group = group
        self._trained: bool | None = None

    def add_up(self) -> None:
        """Gives every copy the sum of the gradients of all. A weight without a gradient in any
        stage stays without one, as in a model that is not cut: zeros would let it decay."""
        if self._trained is None:
            self._trained = self._any_has_gradient()
        if not self._trained:
            return
        # Where replicas share weights out, all stages do it alike: equal parts meet here.
        total = torch.zeros_like(part(self._copies[0].detach()))
        for copy in self._copies:
            if copy.grad is not None:
                total += part(copy.grad)
        if self._group is not None:
            dist.all_reduce(total, group=self._group)
        for copy in self._copies:
            copy.grad = parted_like(copy, total.clone())

    def _any_has_gradient(self) -> bool:
        """Whether a copy on any rank has one. Asked in the first step only: stages are traced, so
        that the same weights have gradients in every step, and the answer is waited for."""
        here = any(copy.grad is not None for copy in self._copies)
        count = torch.tensor(int(here), device=self._copies[0].device)
        if self._group is not None:
            dist.all_reduce(count, group=self._group)
        return bool(count)
