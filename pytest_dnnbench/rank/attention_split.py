"""Attention split among ranks by heads: torch.nn.MultiheadAttention, whose queries, keys and values
are one packed matrix, and torchvision's attention in windows (window_attention.py). Tensor
parallelism's own styles split plain linear layers only.

Each rank computes its heads and its part of the layer after them; the parts are added. Not here:
what a rank holds and sends (head_parts.py).
"""

from functools import partial

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.parallel import ParallelStyle
from torch.distributed.tensor.placement_types import _StridedShard
from torch.nn.functional import linear, scaled_dot_product_attention

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.head_parts import (
    PACKED,
    entering,
    hold,
    hold_columns,
    hold_packed,
    leaving,
    piece,
    rows_of,
)
from pytest_dnnbench.rank.window_attention import heads_in, is_window_attention, split_windows


class HeadsParallel(ParallelStyle):
    """Splits the heads of an attention module, whose forward pass it replaces."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        if is_window_attention(module):
            split_windows(module, device_mesh)
            return module
        assert isinstance(module, nn.MultiheadAttention)
        hold_packed(module, "in_proj_weight", device_mesh)
        if module.in_proj_bias is not None:
            # Whole on each rank, which uses its rows of it: FSDP could not share out a part of it.
            hold(module, "in_proj_bias", module.in_proj_bias, Replicate(), device_mesh)
        hold_columns(module.out_proj, device_mesh)
        # nn.TransformerEncoderLayer's own fast path, in evaluation, takes whole weights.
        torch.backends.mha.set_fastpath_enabled(False)
        module.forward = partial(_forward, module, device_mesh)  # type: ignore[method-assign]
        return module


def shard_packed(parameter: nn.Parameter) -> Shard | None:
    """Where FSDP shares out a packed weight that is split: by columns. Of rows that are split in
    strides it cannot tell which part is whose. None for any other weight: FSDP's default."""
    placements = parameter.placements if isinstance(parameter, DTensor) else ()
    return Shard(1) if any(isinstance(each, _StridedShard) for each in placements) else None


def is_attention(module: nn.Module) -> bool:
    """Whether it is of a class that HeadsParallel knows."""
    return isinstance(module, nn.MultiheadAttention) or is_window_attention(module)


def can_split_heads(module: nn.Module | None, ranks: int) -> bool:
    """Whether HeadsParallel splits a module evenly: attention of a number of heads that the ranks
    divide; of MultiheadAttention that packs its matrix, without keys of its own."""
    if module is not None and is_window_attention(module):
        return heads_in(module) % ranks == 0
    return (
        isinstance(module, nn.MultiheadAttention)
        and module._qkv_same_embed_dim
        and module.bias_k is None
        and not module.add_zero_attn
        and module.num_heads % ranks == 0
    )


def _forward(
    module: nn.MultiheadAttention,
    mesh: DeviceMesh,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_padding_mask: torch.Tensor | None = None,
    need_weights: bool = True,
    attn_mask: torch.Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[torch.Tensor, None]:
    """As nn.MultiheadAttention's, of self-attention: (batch, sequence, width), or sequence first,
    to the same shape; there are no weights of attention to return."""
    is_plain = query is key and key is value and key_padding_mask is None and query.dim() == 3
    if need_weights or not is_plain or (attn_mask is not None and attn_mask.dim() != 2):
        raise UsageError(
            "tensor parallelism splits the heads of self-attention over batches, without"
            " key_padding_mask, called with need_weights=False: call nn.MultiheadAttention so, or"
            " leave it out of Workload.split"
        )
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = attn_mask.logical_not()  # there True hides, here it shows
    stream = query if module.batch_first else query.transpose(0, 1)
    packed = linear(entering(stream, mesh), piece(module.in_proj_weight), _bias(module, mesh))
    width = module.head_dim
    heads = packed.reshape(*packed.shape[:2], PACKED, -1, width).movedim(2, 0).transpose(2, 3)
    queries, keys, values = heads.unbind()
    rate = module.dropout if module.training else 0.0
    mixed = scaled_dot_product_attention(queries, keys, values, attn_mask, dropout_p=rate)
    added = leaving(linear(mixed.transpose(1, 2).flatten(2), piece(module.out_proj.weight)), mesh)
    out = added if module.out_proj.bias is None else added + module.out_proj.bias
    return (out if module.batch_first else out.transpose(0, 1)), None


def _bias(module: nn.MultiheadAttention, mesh: DeviceMesh) -> torch.Tensor | None:
    held = module.in_proj_bias
    return None if held is None else rows_of(piece(held, Partial()), mesh)
