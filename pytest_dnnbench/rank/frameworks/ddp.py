"""`ddp`: torch.nn.parallel.DistributedDataParallel (Li et al., "PyTorch Distributed", VLDB
2020)."""

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pytest_dnnbench.rank.frameworks.data_parallel import DataParallelWorker


class DdpWorker(DataParallelWorker):
    """Averages gradients bucket by bucket while the backward pass runs. All ranks take rank 0's
    weights and buffers."""

    def wrap(
        self, module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The module in DistributedDataParallel with its default settings; the optimiser
        unchanged."""
        devices = [self.device] if self.device.type == "cuda" else None
        model = DistributedDataParallel(module, device_ids=devices)
        # Before the module's own forward pass, the ranks wait for rank 0's buffers.
        model.register_forward_pre_hook(lambda *_: self.own_work.together())
        module.register_forward_pre_hook(lambda *_: self.own_work.alone())
        return model, optimizer
