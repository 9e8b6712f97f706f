"""`ddp` with synchronised batch normalisation for CPU ranks, which torch's has none for: written by
hand of torch's differentiable collectives. Right, and with one planted fault each."""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from pytest_dnnbench.rank.frameworks.ddp import DdpWorker


class HandSynced(nn.Module):
    """Batch normalisation over the samples of all ranks, which all have as many. It has the names
    of the layer that it stands for."""

    weight: torch.Tensor
    bias: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def __init__(self, layer: _BatchNorm) -> None:
        super().__init__()
        assert layer.momentum is not None
        self.eps, self.momentum = layer.eps, layer.momentum
        for name, parameter in layer.named_parameters():
            self.register_parameter(name, parameter)
        for name, buffer in layer.named_buffers():
            self.register_buffer(name, buffer)

    def mean_over_ranks(self, local: torch.Tensor) -> torch.Tensor:
        """The mean of what each rank has; its gradient goes to all of them."""
        return all_reduce(local) / dist.get_world_size()  # type: ignore[no-untyped-call, no-any-return] # torch's gap

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Normalises by the statistics of all samples, and follows them."""
        shape = [1, -1] + [1] * (inputs.dim() - 2)
        if not self.training:
            mean, variance = self.running_mean, self.running_var
        else:
            others = [place for place in range(inputs.dim()) if place != 1]
            mean = self.mean_over_ranks(inputs.mean(others))
            variance = self.variance(inputs, mean.view(shape), others)
            count = inputs.numel() // inputs.shape[1] * dist.get_world_size()
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * count / (count - 1), self.momentum)
                self.num_batches_tracked.add_(1)
        scale = (self.weight * (variance + self.eps).rsqrt()).view(shape)
        return (inputs - mean.view(shape)) * scale + self.bias.view(shape)

    def variance(self, inputs: torch.Tensor, mean: torch.Tensor, others: list[int]) -> torch.Tensor:
        """Of all samples, around their mean."""
        return self.mean_over_ranks((inputs - mean).square().mean(others))


class Right(DdpWorker):
    """As `ddp` with SyncBatchNorm, on the CPU."""

    layer: type[HandSynced] = HandSynced

    def synchronising(self, module: nn.Module) -> nn.Module:
        """The module with the layer of this class."""
        for parent in list(module.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, _BatchNorm):
                    setattr(parent, name, self.layer(child))
        return module


class Unsynchronised(Right):
    """Leaves every rank its own statistics."""

    def synchronising(self, module: nn.Module) -> nn.Module:
        """The module as it is."""
        return module


class _MeansAlone(HandSynced):
    def variance(self, inputs: torch.Tensor, mean: torch.Tensor, others: list[int]) -> torch.Tensor:
        """This rank's."""
        return (inputs - mean).square().mean(others)


class MeansAlone(Right):
    """Synchronises means, and no variances."""

    layer = _MeansAlone


class _ForwardAlone(HandSynced):
    def mean_over_ranks(self, local: torch.Tensor) -> torch.Tensor:
        """The mean, of which the other ranks' part gets no gradient."""
        mean = local.detach().clone()
        dist.all_reduce(mean)
        mean /= dist.get_world_size()
        return mean + (local - local.detach()) / dist.get_world_size()


class ForwardAlone(Right):
    """Synchronises the forward pass, and not the backward pass."""

    layer = _ForwardAlone
