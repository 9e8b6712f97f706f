"""Training with one planted cause of slowness, named in the environment: what a breakdown has to
find."""

import os
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from pytest_dnnbench.rank.frameworks.ddp import DdpWorker
from pytest_dnnbench.rank.workloads.workload import Batch, DataShare, Workload
from tests.tiny_models import tiny

PLANTED = "DNNBENCH_TEST_PLANTED"
"""The variable: empty, or one of the causes below."""

CAUSES = ("loader", "operator", "collective", "host", "late rank")

SLEEP_S = 0.06
"""Long beside a tiny model's step."""


class Slowed(Workload):
    """A tiny classifier; its loader or its forward pass is slow where that is planted."""

    def __init__(self) -> None:
        self.cause = os.environ.get(PLANTED, "")
        assert self.cause in ("", *CAUSES)

    def model(self) -> nn.Module:
        """The model, which repeats an operator where that is planted."""
        model = tiny()
        if self.cause == "operator":
            model.register_forward_pre_hook(_repeat)
        return model

    def batch(self, size: int) -> Batch:
        """Random images and labels."""
        return torch.randn(size, 1, 28, 28), torch.randint(10, (size,))

    def batches(self, share: DataShare) -> Iterator[Batch] | None:
        """A slow loader where that is planted."""
        return self._slowly(share.size) if self.cause == "loader" else None

    def _slowly(self, size: int) -> Iterator[Batch]:
        batch = self.batch(size)
        while True:
            time.sleep(SLEEP_S)
            yield batch


class SlowedDdp(DdpWorker):
    """DistributedDataParallel; its exchange, its host or rank 1 is slow where that is planted."""

    def build(self) -> None:
        """The model, before whose forward pass rank 1 may sleep."""
        super().build()
        self.cause, self.large = os.environ.get(PLANTED, ""), torch.ones(1 << 22)
        if self.cause == "late rank" and self.place.rank == 1:
            self.module.register_forward_pre_hook(lambda *_: time.sleep(SLEEP_S))

    def update(self) -> None:
        """As in the framework, after what is planted before it."""
        if self.cause == "collective":
            dist.all_reduce(self.large)
        elif self.cause == "host":
            time.sleep(SLEEP_S)
        super().update()


def _repeat(*_: Any) -> None:
    large = torch.full((256, 256), 1e-3)
    for _repetition in range(20):
        large = large @ large
