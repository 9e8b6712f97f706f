"""A stand-in for a weight of another stage, of which a stage reads the dtype or the size.

Not here: which weights these are (stage_graph.py).
"""

from collections.abc import Callable

import torch
from torch import nn


class Likeness(nn.Module):
    """Has a tensor of the same size, dtype and device as another, in the memory of one element. It
    moves with the module that holds it, and is neither a parameter nor a buffer of it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__()
        self._shape = tensor.shape
        self._element = tensor.new_zeros(())

    @property
    def tensor(self) -> torch.Tensor:
        """The stand-in."""
        return self._element.expand(self._shape)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
        self._element = fn(self._element)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return] # torch's gap
