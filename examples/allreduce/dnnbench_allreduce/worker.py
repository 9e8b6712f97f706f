"""The framework's part on a rank. Only ranks import this module, and with it torch."""

import statistics
import time

import torch
import torch.distributed as dist
from torch import nn

from pytest_dnnbench.rank.frameworks.data_parallel import DataParallelWorker


class AllreduceWorker(DataParallelWorker):
    """Averages gradients over the ranks in `buckets` all-reduces once the backward pass is over.

    DataParallelWorker brings the rest: the model, the batches, the proof of the step.
    """

    def wrap(
        self, module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Both as they are, with rank 0's weights and buffers on every rank."""
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.detach(), src=0)
        self._exchange_s: list[float] = []
        self._exchanged_bytes = 0
        return module, optimizer

    def update(self) -> None:
        """Exchanges the gradients, then updates the weights."""
        begun = time.monotonic()
        gradients = [
            parameter.grad for parameter in self.module.parameters() if parameter.grad is not None
        ]
        buckets = int(self.case.options.get("buckets", 1))
        for first in range(buckets):
            self._average(gradients[first::buckets])
        self._exchange_s.append(time.monotonic() - begun)
        self._exchanged_bytes = sum(gradient.nbytes for gradient in gradients)
        super().update()

    def metrics(self) -> dict[str, float]:
        """The figures of a step, by the names of the metrics' rows."""
        if not self._exchange_s:
            return {}
        return {
            "exchange_time_s": statistics.median(self._exchange_s),
            "exchanged_bytes": float(self._exchanged_bytes),
        }

    def _average(self, gradients: list[torch.Tensor]) -> None:
        if not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.place.world_size
        first = 0
        for gradient in gradients:
            gradient.copy_(flat[first : first + gradient.numel()].view_as(gradient))
            first += gradient.numel()
