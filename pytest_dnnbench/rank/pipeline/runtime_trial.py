"""What torch's runtime of a schedule takes itself with each pass: the schedule of a case, run over
hollow stages, which compute next to nothing and send one number each.

It is a thread's processor time, so that waiting for other ranks is not in it. Not here: what passes
compute (rank/profiling), what messages take on their way (planner/plan_seconds.py).
"""

import dataclasses
import statistics
import time
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn

from pytest_dnnbench.messages import Place
from pytest_dnnbench.planner.synchronous import Pipelines
from pytest_dnnbench.rank.pipeline.sgd import Sgd
from pytest_dnnbench.rank.pipeline.torch_runtime import TorchRuntime
from pytest_dnnbench.rank.workloads.workload import Batch

_STEPS = 7
"""That are timed; the one before them makes the schedule."""


class _Hollow(nn.Module):
    """One multiplication by a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1))

    def forward(self, value: torch.Tensor) -> tuple[torch.Tensor]:
        """The product, (1, 1)."""
        return (value * self.weight,)


def seconds_of_pass(place: Place, pipelines: Pipelines) -> float | None:
    """Seconds that a pass takes a rank beside its compute, the mean over all ranks, which call
    this together. None on GPUs, whose hosts run ahead."""
    if place.device != "cpu":
        return None
    # The runtime of shared weights gathers them, which is communication.
    pipelines = dataclasses.replace(pipelines, shares_out=False)
    stages = [_Hollow() for _ in range(pipelines.stages)]
    runtime = TorchRuntime(place, pipelines, stages, Sgd(0.0, 0.0, 0.0), loss=_mean)
    batches, seconds = _batches(), []
    for _ in range(1 + _STEPS):
        runtime.passes.restart()
        begun = time.thread_time()
        for _ in runtime.train(batches, pipelines.microbatches):
            pass
        seconds.append(time.thread_time() - begun)
    passes = [each for each in runtime.passes.order() if each.kind != "L"]
    own = torch.tensor(statistics.median(seconds[1:]) / len(passes), dtype=torch.float64)
    dist.all_reduce(own)
    runtime.close()
    return float(own) / place.world_size


def _batches() -> Iterator[Batch]:
    while True:
        yield torch.ones(1, 1), torch.ones(1, 1)


def _mean(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (output * targets).mean()
