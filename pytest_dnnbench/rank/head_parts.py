"""What a rank holds and sends of attention that ranks split by heads: its rows of a packed matrix,
its columns of the layer after it, and the sums over all ranks.

    packed weight, rows      q q q q | k k k k | v v v v
    of rank 0, of two        q q     | k k     | v v

Not here: the attention itself (attention_split.py, window_attention.py).
"""

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

PACKED = 3
"""Queries, keys and values."""


def hold(
    module: nn.Module, name: str, piece: torch.Tensor, placement: Placement, mesh: DeviceMesh
) -> None:
    """Puts a rank's piece in the place of a module's parameter."""
    whole = getattr(module, name)
    held = DTensor.from_local(
        piece.detach(), mesh, [placement], run_check=False, shape=whole.shape, stride=whole.stride()
    )
    module.register_parameter(name, nn.Parameter(held, requires_grad=whole.requires_grad))


def hold_packed(module: nn.Module, name: str, mesh: DeviceMesh) -> None:
    """Leaves a module the rows of this rank's heads of a packed weight."""
    rows = rows_of(getattr(module, name), mesh)
    hold(module, name, rows, _StridedShard(0, split_factor=PACKED), mesh)


def hold_columns(layer: nn.Linear, mesh: DeviceMesh) -> None:
    """Leaves the layer after the heads the columns that take this rank's heads."""
    columns = layer.weight.chunk(mesh.size(), dim=1)[mesh.get_local_rank()].contiguous()
    hold(layer, "weight", columns, Shard(1), mesh)


def rows_of(packed: torch.Tensor, mesh: DeviceMesh) -> torch.Tensor:
    """Those of a rank's heads, of a packed weight or bias."""
    rank, ranks = mesh.get_local_rank(), mesh.size()
    return torch.cat([third.chunk(ranks)[rank] for third in packed.chunk(PACKED)])


def heads_of(whole: torch.Tensor, dim: int, mesh: DeviceMesh) -> torch.Tensor:
    """A rank's heads of a tensor that has all of them along a dimension."""
    return whole.chunk(mesh.size(), dim=dim)[mesh.get_local_rank()]


def piece(tensor: torch.Tensor, gradients: Placement | None = None) -> torch.Tensor:
    """What a rank holds of a tensor. `gradients`: what those of the ranks are together, where they
    do not lie as the tensor does."""
    assert isinstance(tensor, DTensor)
    return tensor.to_local(grad_placements=None if gradients is None else [gradients])


def entering(whole: torch.Tensor, mesh: DeviceMesh) -> torch.Tensor:
    """A tensor that every rank has, as it is, of which each uses a part; on the way back the
    gradients of all ranks are added."""
    held = DTensor.from_local(whole, mesh, [Replicate()], run_check=False)
    return held.to_local(grad_placements=[Partial()])


def leaving(part: torch.Tensor, mesh: DeviceMesh) -> torch.Tensor:
    """The sum of all ranks' parts."""
    held = DTensor.from_local(part, mesh, [Partial()], run_check=False)
    return held.redistribute(placements=[Replicate()]).to_local()
