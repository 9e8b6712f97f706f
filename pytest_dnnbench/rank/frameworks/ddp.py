"""`ddp`: torch.nn.parallel.DistributedDataParallel (Li et al., "PyTorch Distributed", VLDB
2020)."""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank.frameworks.data_parallel import DataParallelWorker
from pytest_dnnbench.rank.workload import Batch


class DdpWorker(DataParallelWorker):
    """Averages gradients bucket by bucket while the backward pass runs. All ranks take rank 0's
    weights and buffers."""

    def __init__(self, place: Place, request: RunRequest) -> None:
        super().__init__(place, request)
        self.shares_buffers = place.world_size > 1
        self.find_unused = bool(request.case.options.get("find_unused_parameters", False))

    def wrap(
        self, module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The module in DistributedDataParallel with its default settings, but for
        `find_unused_parameters` if the case asks for it; the optimiser unchanged."""
        devices = [self.device] if self.device.type == "cuda" else None
        model = DistributedDataParallel(
            module, device_ids=devices, find_unused_parameters=self.find_unused
        )
        # Before the module's own forward pass, the ranks wait for rank 0's buffers.
        model.register_forward_pre_hook(lambda *_: self.own_work.together())
        module.register_forward_pre_hook(lambda *_: self.own_work.alone())
        return model, optimizer

    def exchanging(self, last: bool) -> AbstractContextManager[object]:
        """As DataParallelWorker.exchanging: all but the last backward pass leave gradients here."""
        if last:
            return nullcontext()
        assert isinstance(self.model, DistributedDataParallel)
        return self.model.no_sync()

    def train_step(self, minibatches: Sequence[Batch]) -> torch.Tensor:
        """As DataParallelWorker.train_step. Raises UsageError where torch finds parameters that get
        no gradient."""
        try:
            return super().train_step(minibatches)
        except RuntimeError as error:
            if not self.find_unused and "find_unused_parameters=True" in str(error):
                raise UsageError(
                    "DistributedDataParallel waits for gradients of parameters that the model does"
                    f" not use ({self._unused(str(error))}): add --dnn-ddp-find-unused, or remove"
                    " them from the model"
                ) from error
            raise

    def _unused(self, error: str) -> str:
        """The names of the parameters that torch's error gives by their places."""
        names = [name for name, each in self.module.named_parameters() if each.requires_grad]
        places = re.findall(r"\d+", error.partition(f"rank {self.place.rank}:")[2].split("\n")[0])
        return ", ".join(repr(names[int(place)]) for place in places if int(place) < len(names))

    def details(self) -> dict[str, object]:
        """The options in force."""
        return {**super().details(), "find_unused_parameters": self.find_unused}
