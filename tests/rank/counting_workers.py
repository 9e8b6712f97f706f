"""A framework that counts its own collectives."""

from collections.abc import Sequence

import torch

from pytest_dnnbench.rank.frameworks.fsdp import FsdpWorker
from pytest_dnnbench.rank.workloads.workload import Batch


class CountsReductions(FsdpWorker):
    """Tells how often gradients were reduced in the last step."""

    reductions = 0

    def train_step(self, minibatches: Sequence[Batch]) -> torch.Tensor:
        """A step under torch's profiler."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            loss = super().train_step(minibatches)
        names = [event.name for event in profiler.events() or ()]
        self.reductions = sum(name.startswith("c10d::_reduce_scatter") for name in names)
        return loss

    def details(self) -> dict[str, object]:
        """With the count."""
        return {**super().details(), "reductions": self.reductions}
