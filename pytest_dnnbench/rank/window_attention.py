"""torchvision's attention in windows, with a bias for each distance, split among ranks by heads.

    ShiftedWindowAttention, of Swin Transformers (Liu et al., "Swin Transformer", ICCV 2021,
    section 3.2), and its second version (Liu et al., "Swin Transformer V2", CVPR 2022, section 3.2)
    RelativePositionalMultiHeadAttention, of MaxViT (Tu et al., "MaxViT", ECCV 2022, section 3.1)

    image ─> windows ─> q, k, v of a rank's heads ─> attention ─> a part of every pixel ─> added

The bias of distances, and what else there is a number of per head, is small: every rank computes
all of it, and takes its heads. Its gradients are added over the ranks. Not here: what a rank holds
(head_parts.py), which modules of a model are split (workloads/transformer_split.py).
"""

import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.functional import dropout, linear, normalize, pad

from pytest_dnnbench.rank.head_parts import (
    PACKED,
    entering,
    heads_of,
    hold_columns,
    hold_packed,
    leaving,
    piece,
    rows_of,
)

HIDDEN = -100.0
"""What torchvision adds to the score of two pixels that a shift has brought into one window."""

_LARGEST_SCALE = math.log(100.0)
"""Of a cosine, in Swin's second version."""

_SWIN, _MAXVIT = "torchvision.models.swin_transformer", "torchvision.models.maxvit"


def split_windows(module: nn.Module, mesh: DeviceMesh) -> None:
    """Leaves a module of `is_window_attention` its part, and a forward pass of it."""
    packed, after, forward = _layers(module)
    hold_packed(packed, "weight", mesh)
    hold_columns(after, mesh)
    module.forward = partial(forward, module, mesh)


def is_window_attention(module: nn.Module) -> bool:
    """Whether it is one of torchvision's, and computes as torchvision wrote it: a subclass with a
    forward pass of its own is another."""
    kinds = [
        getattr(sys.modules.get(path), name, None)
        for path, name in (
            (_SWIN, "ShiftedWindowAttention"),
            (_SWIN, "ShiftedWindowAttentionV2"),
            (_MAXVIT, "RelativePositionalMultiHeadAttention"),
        )
    ]
    return type(module) in kinds and "forward" not in vars(module)


def heads_in(module: nn.Module) -> int:
    """The number of heads of a module of `is_window_attention`."""
    heads = module.num_heads if hasattr(module, "num_heads") else module.n_heads
    assert isinstance(heads, int)
    return heads


def _layers(module: Any) -> tuple[nn.Linear, nn.Linear, Callable[..., torch.Tensor]]:
    """The packed layer, the one after the heads, and the forward pass."""
    if hasattr(module, "to_qkv"):
        return module.to_qkv, module.merge, _of_maxvit
    return module.qkv, module.proj, _of_swin


def _of_maxvit(module: Any, mesh: DeviceMesh, windows: torch.Tensor) -> torch.Tensor:
    """(batch, windows, pixels, features) to the same shape."""
    queries, keys, values = _packed(module.to_qkv, windows, module.head_dim, mesh)
    scores = queries @ (keys * module.scale_factor).mT
    scores = scores + _own_heads(module.get_relative_positional_bias(), 1, mesh)
    return _joined(scores.softmax(-1) @ values, module.merge, mesh)


def _of_swin(module: Any, mesh: DeviceMesh, image: torch.Tensor) -> torch.Tensor:
    """(batch, height, width, features) to the same shape."""
    batch, height, width, features = image.shape
    size: Sequence[int] = module.window_size
    padded = pad(image, (0, 0, 0, -width % size[1], 0, -height % size[0]))
    whole = padded.shape[1:3]
    # What one window covers is not shifted.
    shift = [
        0 if window >= length else by
        for window, length, by in zip(size, whole, module.shift_size, strict=True)
    ]
    rolled = padded.roll((-shift[0], -shift[1]), (1, 2)) if any(shift) else padded
    hidden = _hidden(whole, size, shift, image) if any(shift) else None
    mixed = _attended(module, mesh, _windows(rolled, size), features, hidden)
    joined = _image(mixed, batch, whole, size)
    rolled_back = joined.roll((shift[0], shift[1]), (1, 2)) if any(shift) else joined
    return rolled_back[:, :height, :width].contiguous()


def _attended(
    module: Any,
    mesh: DeviceMesh,
    windows: torch.Tensor,
    features: int,
    hidden: torch.Tensor | None,
) -> torch.Tensor:
    """Of (batch, windows, pixels, features); `hidden` is (windows, pixels, pixels)."""
    in_cosines = hasattr(module, "logit_scale")
    queries, keys, values = _packed(
        module.qkv, windows, features // module.num_heads, mesh, keys_biased=not in_cosines
    )
    if in_cosines:
        scale = _own_heads(module.logit_scale, 0, mesh).clamp(max=_LARGEST_SCALE).exp()
        scores = normalize(queries, dim=-1) @ normalize(keys, dim=-1).mT * scale
    else:
        scores = (queries * queries.shape[-1] ** -0.5) @ keys.mT
    scores = scores + _own_heads(module.get_relative_position_bias(), 1, mesh)
    if hidden is not None:
        scores = scores + hidden[:, None]
    kept = dropout(scores.softmax(-1), module.attention_dropout, module.training)
    return dropout(_joined(kept @ values, module.proj, mesh), module.dropout, module.training)


def _packed(
    layer: nn.Linear,
    windows: torch.Tensor,
    head_size: int,
    mesh: DeviceMesh,
    *,
    keys_biased: bool = True,
) -> Sequence[torch.Tensor]:
    """Queries, keys and values of a rank's heads, each (batch, windows, heads, pixels, head)."""
    bias = None if layer.bias is None else rows_of(entering(layer.bias, mesh), mesh)
    if bias is not None and not keys_biased:
        queries, keys, values = bias.chunk(PACKED)
        bias = torch.cat([queries, torch.zeros_like(keys), values])
    packed = linear(entering(windows, mesh), piece(layer.weight), bias)
    heads = packed.reshape(*packed.shape[:3], PACKED, -1, head_size)
    return heads.permute(3, 0, 1, 4, 2, 5).unbind()


def _joined(mixed: torch.Tensor, layer: nn.Linear, mesh: DeviceMesh) -> torch.Tensor:
    """The layer after the heads: its parts of all ranks added, and its bias."""
    joined = mixed.transpose(2, 3).flatten(3)
    added = leaving(linear(joined, piece(layer.weight)), mesh)
    return added if layer.bias is None else added + layer.bias


def _own_heads(whole: torch.Tensor, dim: int, mesh: DeviceMesh) -> torch.Tensor:
    """Of what every rank computes for all heads along a dimension."""
    return heads_of(entering(whole, mesh), dim, mesh)


def _windows(image: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """(batch, height, width, features) as (batch, windows, pixels of one, features)."""
    batch, height, width, features = image.shape
    tiles = image.reshape(
        batch, height // size[0], size[0], width // size[1], size[1], features
    ).transpose(2, 3)
    return tiles.reshape(batch, -1, size[0] * size[1], features)


def _image(
    windows: torch.Tensor, batch: int, whole: Sequence[int], size: Sequence[int]
) -> torch.Tensor:
    """The inverse of `_windows`, for an image of this height and width."""
    rows, columns = whole[0] // size[0], whole[1] // size[1]
    tiles = windows.reshape(batch, rows, columns, size[0], size[1], -1).transpose(2, 3)
    return tiles.reshape(batch, whole[0], whole[1], -1)


def _hidden(
    whole: Sequence[int], size: Sequence[int], shift: Sequence[int], like: torch.Tensor
) -> torch.Tensor:
    """(windows, pixels, pixels): what is added to scores of pixels that are no neighbours. A shift
    by s brings the first s rows to the end: there a window holds rows of both edges."""
    rows, columns = (
        _regions(length, window, by, like.device)
        for length, window, by in zip(whole, size, shift, strict=True)
    )
    regions = 3 * rows[:, None] + columns
    pixels = _windows(regions[None, :, :, None], size)[0, :, :, 0]
    apart = pixels[:, None, :] != pixels[:, :, None]
    return torch.zeros(apart.shape, dtype=like.dtype, device=like.device).masked_fill(apart, HIDDEN)


def _regions(length: int, window: int, shift: int, device: torch.device) -> torch.Tensor:
    """By row: 0 before the last window, there 1, and 2 where the shift has brought other rows."""
    place = torch.arange(length, device=device)
    if not shift:
        return torch.zeros_like(place)
    return (place >= length - window).long() + (place >= length - shift)
