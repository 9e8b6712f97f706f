"""A copy of a model that its user may not have meant to be copied.

`copy.deepcopy` refuses locks, open files, threads and the like, wherever a module has one. A copy
shares these with the model; everything else, each tensor above all, is its own.
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def copied(model: nn.Module, sharing: Iterable[torch.Tensor] = ()) -> nn.Module:
    """A deep copy of a model. What cannot be copied is shared with it, and so are the tensors in
    `sharing`."""
    kept = {id(each): each for each in sharing}
    try:
        return copy.deepcopy(model, {**kept})
    except (TypeError, RuntimeError, NotImplementedError, AttributeError):
        shared: dict[int, Any] = {**kept}
        for module in model.modules():
            for name, value in vars(module).items():
                if name not in ("_parameters", "_buffers", "_modules"):
                    shared |= _uncopyable(value)
        return copy.deepcopy(model, shared)


def _uncopyable(value: Any) -> dict[int, Any]:
    """What has to stand for itself in a copy, by id: the values inside lists and dicts that cannot
    be copied, or else the value."""
    if isinstance(value, torch.Generator):
        return {id(value): value.clone_state()}
    try:
        copy.deepcopy(value)
    except (TypeError, RuntimeError, NotImplementedError, AttributeError):
        inside = (
            list(value.values())
            if isinstance(value, dict)
            else list(value)
            if isinstance(value, (list, tuple, set))
            else []
        )
        parts: dict[int, Any] = {}
        for each in inside:
            parts |= _uncopyable(each)
        return parts or {id(value): value}
    return {}
