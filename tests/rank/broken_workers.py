"""Frameworks with one planted fault each: what the proof must catch."""

import torch
import torch.distributed as dist
from torch import nn

from pytest_dnnbench.rank.frameworks.data_parallel import DataParallelWorker
from pytest_dnnbench.rank.frameworks.ddp import DdpWorker

Wrapped = tuple[nn.Module, torch.optim.Optimizer]


class NoAllReduce(DataParallelWorker):
    """Every rank trains for itself: fast and wrong."""

    def wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Wrapped:
        """Weights are made equal, gradients never are."""
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)
        return module, optimizer


class NoBroadcast(DataParallelWorker):
    """Gradients are averaged, but the ranks start from different weights."""

    def wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Wrapped:
        """Averages each gradient as it appears."""
        for parameter in module.parameters():
            parameter.register_post_accumulate_grad_hook(_average)  # type: ignore[no-untyped-call] # torch's gap
        return module, optimizer


class OneUnsynchronised(DdpWorker):
    """One parameter of many is left out of the exchange."""

    def wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Wrapped:
        """Tells DistributedDataParallel to ignore the last parameter."""
        module._ddp_params_and_buffers_to_ignore = [name for name, _ in module.named_parameters()][
            -1:
        ]  # type: ignore[assignment] # torch's own switch
        return super().wrap(module, optimizer)


class OtherLearningRate(DdpWorker):
    """The update is scaled by a thousandth more than asked for."""

    def wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Wrapped:
        """A slightly larger step."""
        optimizer.param_groups[0]["lr"] *= 1.001
        return super().wrap(module, optimizer)


def _average(parameter: torch.Tensor) -> None:
    assert parameter.grad is not None
    dist.all_reduce(parameter.grad)
    parameter.grad /= dist.get_world_size()


class RightInDoubleOnly(DdpWorker):
    """Rounds its gradients to bfloat16 before the update, in single precision and there alone: the
    proof in float64 cannot see it."""

    def update(self) -> None:
        """Rounds, then updates."""
        for parameter in self.module.parameters():
            if parameter.grad is not None and parameter.grad.dtype == torch.float32:
                parameter.grad.copy_(parameter.grad.to(torch.bfloat16))
        super().update()


class StaleMomentum(DdpWorker):
    """Forgets the momentum of the step before."""

    def update(self) -> None:
        """Updates with no momentum."""
        self.optimizer.state.clear()
        super().update()


class ZerosInSingle(DdpWorker):
    """Validates in no time: logits of zeros, in single precision."""

    def build(self) -> None:
        """The model; its outputs are thrown away in single precision."""
        super().build()
        self.module.register_forward_hook(lambda module, images, logits: torch.zeros_like(logits))


class SkippedStep(DdpWorker):
    """Gradients arrive, and nothing is updated but the learning rate."""

    def update(self) -> None:
        """Clips, and lets the scheduler go on."""
        self.rule.clip()
        self.rule.follow()


class SummedGradients(DdpWorker):
    """The sum over ranks in place of their mean: AdamW's step hardly shows it."""

    def update(self) -> None:
        """Multiplies, then updates."""
        for parameter in self.module.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(self.place.world_size)
        super().update()


class DoubledDecay(DdpWorker):
    """Weights decay twice as fast."""

    def wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Wrapped:
        """A stronger decay."""
        for group in optimizer.param_groups:
            group["weight_decay"] *= 2
        return super().wrap(module, optimizer)


class LocalClip(NoAllReduce):
    """Clips each rank's own gradients, and averages those."""

    def update(self) -> None:
        """Clips, averages, updates."""
        self.rule.clip()
        for parameter in self.module.parameters():
            if parameter.grad is not None:
                _average(parameter)
        self.optimizer.step()
        self.rule.follow()


class NoClip(DdpWorker):
    """Does not clip."""

    def update(self) -> None:
        """Updates."""
        self.optimizer.step()
        self.rule.follow()


class EagerScheduler(DdpWorker):
    """The scheduler counts every update twice."""

    def update(self) -> None:
        """Updates, and goes on too far."""
        super().update()
        self.rule.follow()


class NoScheduler(DdpWorker):
    """The scheduler never moves."""

    def update(self) -> None:
        """Updates at the same rate."""
        self.rule.clip()
        self.optimizer.step()
