"""Sharding frameworks with one planted fault each: what the proof must catch."""

import copy

import torch
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, Replicate

from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank import head_parts
from pytest_dnnbench.rank.frameworks.fsdp import FsdpWorker
from pytest_dnnbench.rank.frameworks.tp import TpWorker
from pytest_dnnbench.rank.pipeline.gradient_mean import GradientMean

Wrapped = tuple[nn.Module, torch.optim.Optimizer]


class OwnWeights(FsdpWorker):
    """Every rank shards the weights that it has made itself: the broadcast does not reach them."""

    def wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Wrapped:
        """Puts a rank's own weights back."""
        own = copy.deepcopy(module)
        wrapped, made = super().wrap(module, optimizer)
        with torch.no_grad():
            for ours, theirs in zip(wrapped.parameters(), own.parameters(), strict=True):
                local = ours.to_local()  # type: ignore[attr-defined] # a DTensor
                local.copy_(theirs.chunk(self.place.world_size)[self.place.rank])
        return wrapped, made


class SummedShards(FsdpWorker):
    """The sum of the gradients in place of their mean."""

    def update(self) -> None:
        """Multiplies, then updates."""
        for parameter in self.module.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(self.place.world_size)
        super().update()


class EarlyOptimiser(FsdpWorker):
    """The optimiser of the parameters before they were sharded: it updates nothing."""

    def wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Wrapped:
        """Keeps the first optimiser."""
        return super().wrap(module, optimizer)[0], optimizer


class SecretlyRounded(FsdpWorker):
    """Averages gradients in bfloat16 when it is timed, and does not say so."""

    def __init__(self, place: Place, request: RunRequest) -> None:
        super().__init__(place, request)
        self.types = MixedPrecisionPolicy(reduce_dtype=torch.bfloat16)


class UnevenCopies(TpWorker):
    """A layer that is not split starts from other weights on every rank."""

    def wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Wrapped:
        """Puts a rank's own last weights back."""
        own = list(module.parameters())[-1].detach().clone()
        wrapped = super().wrap(module, optimizer)
        with torch.no_grad():
            list(module.parameters())[-1].copy_(own)
        return wrapped


class NoSum(TpWorker):
    """Keeps its part of what a row layer should add up."""

    def wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Wrapped:
        """Splits the columns, and leaves the rows' results alone."""
        wrapped = super().wrap(module, optimizer)
        for name, way in self.split.items():
            if way == "row":
                layer = module.get_submodule(name)
                layer._forward_hooks.clear()
                layer.register_forward_hook(lambda layer, inputs, output: output.to_local())
        return wrapped


class OtherSamples(TpWorker):
    """Each rank trains on samples of its own."""

    @property
    def shards(self) -> int:
        """As in data parallelism."""
        return self.place.world_size

    @property
    def shard(self) -> int:
        """As in data parallelism."""
        return self.place.rank


class PlainRows(TpWorker):
    """A packed weight is split as one matrix: a rank gets all queries, and no values."""

    def wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Wrapped:
        """Takes successive rows."""
        head_parts.rows_of = lambda packed, mesh: packed.chunk(mesh.size())[mesh.get_local_rank()]
        return super().wrap(module, optimizer)


class KeptParts(TpWorker):
    """Each rank takes a norm's gradients on its part of the sequence for those of the whole."""

    def _add_up_parts(self) -> None:
        """Only says that they are whole."""
        for parameter in self.module.parameters():
            gradient = parameter.grad
            if isinstance(gradient, DTensor) and gradient.placements[0].is_partial():
                mesh, local = gradient.device_mesh, gradient.to_local()
                parameter.grad = DTensor.from_local(local, mesh, [Replicate()])


class LoneReplicas(TpWorker):
    """Each replica updates its copy by the gradients of its own samples."""

    def _average(self, mean: GradientMean) -> None:
        """Leaves them as they are."""


class SameSamples(TpWorker):
    """All replicas train on the samples of the first."""

    @property
    def shard(self) -> int:
        """The first, on every rank."""
        return 0


class SummedReplicas(TpWorker):
    """The sum over the replicas in place of their mean."""

    def update(self) -> None:
        """Multiplies, then updates."""
        for parameter in self.module.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(self.replicas)
        super().update()
