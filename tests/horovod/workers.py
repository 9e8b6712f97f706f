"""Horovod workers with one planted fault each, and some that stall or die."""

import os
import signal
import time
from collections.abc import Iterator

import horovod.torch as hvd
import torch
from torch import nn

from pytest_dnnbench.rank.frameworks.data_parallel import DataParallelWorker
from pytest_dnnbench.rank.frameworks.horovod import HorovodWorker
from pytest_dnnbench.rank.worker import Step
from tests.rank.planted_workers import Late
from tests.sockets import addresses_of

Wrapped = tuple[nn.Module, torch.optim.Optimizer]


class NoBroadcast(HorovodWorker):
    """Gradients are averaged, but the ranks start from different weights: a user forgot
    broadcast_parameters."""

    def wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Wrapped:
        """Only the optimiser is wrapped."""
        names = module.named_parameters()
        return module, hvd.DistributedOptimizer(optimizer, named_parameters=names)


class NoAllReduce(HorovodWorker):
    """Every rank trains for itself: a user forgot DistributedOptimizer."""

    def wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Wrapped:
        """Only the weights are made equal."""
        hvd.broadcast_parameters(module.state_dict(), root_rank=0)
        return module, optimizer

    update = DataParallelWorker.update
    """Nothing to wait for."""


class SumForMean(HorovodWorker):
    """Gradients are added and not divided: as if the learning rate were larger."""

    def wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Wrapped:
        """Asks for Horovod's Sum."""
        hvd.broadcast_parameters(module.state_dict(), root_rank=0)
        names = module.named_parameters()
        return module, hvd.DistributedOptimizer(optimizer, named_parameters=names, op=hvd.Sum)


class DecayingBroadcast(HorovodWorker):
    """The optimiser's state is broadcast with weight decay on: Horovod's first, empty step then is
    a real one."""

    def wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Wrapped:
        """In the order and the way of Horovod's own examples."""
        hvd.broadcast_parameters(module.state_dict(), root_rank=0)
        hvd.broadcast_optimizer_state(optimizer, root_rank=0)
        return module, hvd.DistributedOptimizer(
            optimizer, named_parameters=module.named_parameters()
        )


class Dies(HorovodWorker):
    """Rank 1 is killed after its first step."""

    def run(self, steps: int) -> Iterator[Step]:
        """As HorovodWorker.run, until it is not."""
        for step in super().run(steps):
            yield step
            if self.place.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)


class Stalls(HorovodWorker):
    """Rank 1 stops taking part after its first step; Horovod itself would only warn, after a
    minute."""

    def run(self, steps: int) -> Iterator[Step]:
        """As HorovodWorker.run, until it is not."""
        for step in super().run(steps):
            yield step
            if self.place.rank == 1:
                time.sleep(600)


class ShowsItsPorts(HorovodWorker):
    """Records, while all ranks are connected, on which addresses this rank's process listens or is
    connected."""

    def details(self) -> dict[str, object]:
        """The addresses, as the kernel's table has them: hexadecimal, of IPv4 and IPv6."""
        return {
            "ports": sorted(addresses_of(os.getpid())),
            "threads": len(os.listdir("/proc/self/task")),
        }


class LateHorovod(Late, HorovodWorker):
    """Horovod with a late rank."""
