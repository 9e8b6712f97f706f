"""Frameworks of steady step time with one planted fault each, switched on by FAULTS in the
environment.

No fault makes a step wrong. It makes the step slower or larger, which only a comparison can detect.
"""

import os
import time
from collections.abc import Iterator, Sequence

import torch

from pytest_dnnbench.rank.frameworks.data_parallel import DataParallelWorker
from pytest_dnnbench.rank.frameworks.ddp import DdpWorker
from pytest_dnnbench.rank.worker import Step
from pytest_dnnbench.rank.workloads.mnist import Batch

FAULTS = "DNNBENCH_TEST_FAULTS"
STEP_S_VARIABLE = "DNNBENCH_TEST_STEP_S"
STEP_S = float(os.environ.get(STEP_S_VARIABLE, "0.06"))
MIB = 2**20


class Steady(DdpWorker):
    """Trains for real and then waits, so that a step takes STEP_S on a busy machine too; `slower`
    as planted."""

    slower = 1.0

    def train_step(self, minibatches: Sequence[Batch]) -> torch.Tensor:
        """As in the real framework, and the rest of the time asleep."""
        begun = time.monotonic()
        loss = super().train_step(minibatches)
        duration_s = STEP_S * (self.slower if self.faulty else 1.0)
        time.sleep(max(duration_s - (time.monotonic() - begun), 0.0))
        return loss

    @property
    def faulty(self) -> bool:
        """Whether the fault is switched on: a baseline is measured without."""
        return FAULTS in os.environ


class Slower3(Steady):
    """Each step takes 3% longer."""

    slower = 1.03


class Slower5(Steady):
    """Each step takes 5% longer."""

    slower = 1.05


class Slower10(Steady):
    """Each step takes 10% longer."""

    slower = 1.1


class Slower20(Steady):
    """Each step takes 20% longer."""

    slower = 1.2


class SlowRank(Steady):
    """The last rank is slower than the rest, which wait for it."""

    @property
    def faulty(self) -> bool:
        """On one rank only."""
        return super().faulty and self.place.rank == self.place.world_size - 1

    slower = 1.2


class Late(DataParallelWorker):
    """Real steps, but rank `late_rank` sleeps for `late_s` in each: before its forward pass or in
    its backward pass."""

    def train_step(self, minibatches: Sequence[Batch]) -> torch.Tensor:
        """As in the real framework, later."""
        if self._late_in("forward"):
            time.sleep(float(self.case.options["late_s"]))
        return super().train_step(minibatches)

    def build(self) -> None:
        """The model; a gradient's hook sleeps in the backward pass."""
        super().build()
        if self._late_in("backward"):
            parameter = next(self.module.parameters())
            late_s = float(self.case.options["late_s"])
            parameter.register_hook(lambda _: time.sleep(late_s))  # type: ignore[no-untyped-call] # torch's gap

    def _late_in(self, place: str) -> bool:
        options = self.case.options
        return (
            self.place.rank == options["late_rank"] and options.get("late_in", "forward") == place
        )


class LateDdp(Late, DdpWorker):
    """DistributedDataParallel with a late rank."""


class Hoarder(Steady):
    """Keeps a tensor alive that nothing needs."""

    def build(self) -> None:
        """The model, and 256 MiB."""
        super().build()
        self.hoard = torch.ones(256 * MIB // 4) if self.faulty else None


class Growing(Steady):
    """Keeps something of every step."""

    def run(self, steps: int) -> Iterator[Step]:
        """The steps, and 48 MiB more after each."""
        kept = []
        for step in super().run(steps):
            if self.faulty:
                kept.append(torch.ones(48 * MIB // 4))
            yield step
