"""`ddp`: torch.nn.parallel.DistributedDataParallel (Li et al., "PyTorch Distributed", VLDB
2020)."""

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pytest_dnnbench.rank.frameworks.data_parallel import DataParallelWorker


class DdpWorker(DataParallelWorker):
    """Gradients are averaged bucket by bucket while the backward pass runs; rank 0's weights and
    buffers rule."""

    def wrap(
        self, module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The module in DistributedDataParallel with its default settings; the optimiser as it
        is."""
        devices = [self.device] if self.device.type == "cuda" else None
        model = DistributedDataParallel(module, device_ids=devices)
        model.register_forward_pre_hook(
            lambda *_: self.own_work.together()
        )  # rank 0's buffers come first
        module.register_forward_pre_hook(lambda *_: self.own_work.alone())
        return model, optimizer
