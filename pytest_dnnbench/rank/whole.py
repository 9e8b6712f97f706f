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
