"""Tensors that ranks hold in parts (torch's DTensor): their whole, and the part on this rank. A
plain tensor is its own whole and part."""

import torch


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor. All ranks that hold a part must ask for it, in the same order."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def part(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a tensor."""
    local = getattr(tensor, "to_local", None)
    return tensor if local is None else local()


def parted_like(like: torch.Tensor, own_part: torch.Tensor) -> torch.Tensor:
    """A tensor that ranks hold in parts as they hold `like`, of which this rank has `own_part`.
    Beside a plain tensor, `own_part` itself."""
    if part(like) is like:
        return own_part
    made = torch.zeros_like(like.detach())
    part(made).copy_(own_part)
    return made
