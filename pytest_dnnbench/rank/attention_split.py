"""Attention whose queries, keys and values are one packed matrix (torch.nn.MultiheadAttention),
split among ranks by heads: tensor parallelism's own styles split plain linear layers only.

    packed weight, rows      q q q q | k k k k | v v v v
    of rank 0, of two        q q     | k k     | v v

Each rank computes its heads and its part of the layer after them; the parts are added.
"""

from functools import partial

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard
from torch.distributed.tensor.parallel import ParallelStyle
from torch.distributed.tensor.placement_types import _StridedShard
from torch.nn.functional import linear, scaled_dot_product_attention

from pytest_dnnbench.errors import UsageError

PACKED = 3
"""Queries, keys and values."""


class HeadsParallel(ParallelStyle):
    """Splits the heads of an attention module, whose forward pass it replaces."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        assert isinstance(module, nn.MultiheadAttention)
        rank, ranks = device_mesh.get_local_rank(), device_mesh.size()
        rows = _rows(module.in_proj_weight, device_mesh)
        _hold(module, "in_proj_weight", rows, _StridedShard(0, split_factor=PACKED), device_mesh)
        if module.in_proj_bias is not None:
            # Whole on each rank, which uses its rows of it: FSDP could not share out a part of it.
            _hold(module, "in_proj_bias", module.in_proj_bias, Replicate(), device_mesh)
        out = module.out_proj
        columns = out.weight.chunk(ranks, dim=1)[rank].contiguous()
        _hold(out, "weight", columns, Shard(1), device_mesh)
        # nn.TransformerEncoderLayer's own fast path, in evaluation, takes whole weights.
        torch.backends.mha.set_fastpath_enabled(False)
        module.forward = partial(_forward, module, device_mesh)  # type: ignore[method-assign]
        return module


def shard_packed(parameter: nn.Parameter) -> Shard | None:
    """Where FSDP shares out a packed weight that is split: by columns. Of rows that are split in
    strides it cannot tell which part is whose. None for any other weight: FSDP's default."""
    placements = parameter.placements if isinstance(parameter, DTensor) else ()
    return Shard(1) if any(isinstance(each, _StridedShard) for each in placements) else None


def can_split_heads(module: nn.Module | None, ranks: int) -> bool:
    """Whether HeadsParallel splits a module evenly: attention that packs its matrix, without keys
    of its own, of a number of heads that the ranks divide."""
    return (
        isinstance(module, nn.MultiheadAttention)
        and module._qkv_same_embed_dim
        and module.bias_k is None
        and not module.add_zero_attn
        and module.num_heads % ranks == 0
    )


def _hold(
    module: nn.Module, name: str, piece: torch.Tensor, placement: Placement, mesh: DeviceMesh
) -> None:
    """Puts a rank's piece in the place of a module's parameter."""
    whole = getattr(module, name)
    held = DTensor.from_local(
        piece.detach(), mesh, [placement], run_check=False, shape=whole.shape, stride=whole.stride()
    )
    module.register_parameter(name, nn.Parameter(held, requires_grad=whole.requires_grad))


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
    packed = linear(_entering(stream, mesh), _piece(module.in_proj_weight), _bias(module, mesh))
    width = module.head_dim
    heads = packed.reshape(*packed.shape[:2], PACKED, -1, width).movedim(2, 0).transpose(2, 3)
    queries, keys, values = heads.unbind()
    rate = module.dropout if module.training else 0.0
    mixed = scaled_dot_product_attention(queries, keys, values, attn_mask, dropout_p=rate)
    added = _leaving(linear(mixed.transpose(1, 2).flatten(2), _piece(module.out_proj.weight)), mesh)
    out = added if module.out_proj.bias is None else added + module.out_proj.bias
    return (out if module.batch_first else out.transpose(0, 1)), None


def _entering(stream: torch.Tensor, mesh: DeviceMesh) -> torch.Tensor:
    """The stream as it is; on the way back the gradients of all ranks' heads are added."""
    held = DTensor.from_local(stream, mesh, [Replicate()], run_check=False)
    return held.to_local(grad_placements=[Partial()])


def _leaving(part: torch.Tensor, mesh: DeviceMesh) -> torch.Tensor:
    """The sum of all ranks' parts."""
    held = DTensor.from_local(part, mesh, [Partial()], run_check=False)
    return held.redistribute(placements=[Replicate()]).to_local()


def _rows(packed: torch.Tensor, mesh: DeviceMesh) -> torch.Tensor:
    """Those of a rank's heads."""
    rank, ranks = mesh.get_local_rank(), mesh.size()
    return torch.cat([third.chunk(ranks)[rank] for third in packed.chunk(PACKED)])


def _piece(tensor: torch.Tensor, gradients: Placement | None = None) -> torch.Tensor:
    """What a rank holds of a tensor. `gradients`: what those of the ranks are together, where they
    do not lie as the tensor does."""
    assert isinstance(tensor, DTensor)
    return tensor.to_local(grad_placements=None if gradients is None else [gradients])


def _bias(module: nn.MultiheadAttention, mesh: DeviceMesh) -> torch.Tensor | None:
    held = module.in_proj_bias
    return None if held is None else _rows(_piece(held, Partial()), mesh)
