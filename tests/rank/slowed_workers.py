"""A data-parallel framework with one planted cause of slowness, named in the environment: what a
breakdown has to find."""

import os
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from pytest_dnnbench.rank import marks
from pytest_dnnbench.rank.frameworks.ddp import DdpWorker
from pytest_dnnbench.rank.worker import Step

PLANTED = "DNNBENCH_TEST_PLANTED"
"""The variable: empty, or one of the causes below."""

CAUSES = ("loader", "operator", "collective", "host", "late rank")

SLEEP_S = 0.02
"""Long beside a tiny model's step."""


class Slowed(DdpWorker):
    """DistributedDataParallel with the planted cause."""

    def build(self) -> None:
        """The model; hooks of its forward pass plant what is slow there."""
        super().build()
        self.cause = os.environ.get(PLANTED, "")
        assert self.cause in ("", *CAUSES)
        self.large = torch.ones(384, 384)
        self.module.register_forward_pre_hook(self._before_forward)

    def _before_forward(self, *_: Any) -> None:
        if self.cause == "operator":
            for _repetition in range(8):
                torch.linalg.matrix_exp(self.large)
        elif self.cause == "late rank" and self.place.rank == 1:
            time.sleep(SLEEP_S)

    def update(self) -> None:
        """As in the framework, after what is planted before it."""
        if self.cause == "collective":
            dist.all_reduce(torch.ones(1 << 22))
        elif self.cause == "host":
            time.sleep(SLEEP_S)
        super().update()

    def run(self, steps: int) -> Iterator[Step]:
        """As in the framework; a slow loader takes the place of its own once that is there."""
        for step in super().run(steps):
            if self.cause == "loader":
                with marks.mark("data"):
                    time.sleep(SLEEP_S)
            yield step
