"""Stages whose weights the replicas share out by fully_shard (FSDP2): between two updates each
replica holds a part of every weight, gradient and optimiser state of its stages.

    gather ──> forward and backward passes of all microbatches ──> reduce, share out ──> update
    (whole weights)                (whole gradients, summed)       (parts: mean over replicas)

A stage is wrapped as a whole: it runs a traced graph of operators, in which the blocks of the model
are no calls. torch's schedules keep it whole from its first pass to its last one in an update, or
every microbatch would gather it anew; they average when its last backward pass is over
(torch.distributed.pipelining.stage, perform_reduce_grad). Not here: when a stage runs
(torch_runtime.py); fully_shard for a model that is not cut (frameworks/fsdp.py).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from pytest_dnnbench.rank.shardable import check_shardable


def share_out(number: int, stage: nn.Module, replicas: dist.ProcessGroup, device: str) -> None:
    """Shares stage `number` out over its replicas, in place: its parameters become DTensors, each a
    part. All replicas call it, with equal weights on a device of this kind. Raises UsageError for
    weights that fully_shard cannot take."""
    weights = dict(stage.named_parameters())
    check_shardable(f"stage {number}", weights, "or use --dnn-schedule-replicas copies")
    if weights:
        mesh = DeviceMesh.from_group(replicas, device)
        fully_shard(stage, mesh=mesh, reshard_after_forward=False)


def gather(stages: Iterable[nn.Module]) -> None:
    """Makes the weights whole on this rank. Replicas call it in the same order."""
    for stage in stages:
        if isinstance(stage, FSDPModule):
            stage.unshard()


def release(stages: Iterable[nn.Module]) -> None:
    """Frees all but this rank's parts; of stages that hold no more, nothing."""
    for stage in stages:
        if isinstance(stage, FSDPModule):
            stage.reshard()


@contextmanager
def gathered(stages: Iterable[nn.Module]) -> Iterator[None]:
    """In a `with`, the weights are whole: for calls that pass fully_shard's hooks by."""
    held = list(stages)
    gather(held)
    yield
    release(held)
