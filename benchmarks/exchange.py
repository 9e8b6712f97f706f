"""Rank programs of ddp_horovod.py: ranks that exchange nothing, and the exchange of gradients
alone."""

import time
from collections.abc import Callable

import horovod.torch as hvd
import torch
import torch.distributed as dist
from torch import nn

from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank import group
from pytest_dnnbench.rank.frameworks.data_parallel import DataParallelWorker
from pytest_dnnbench.rank.workloads.image_models import build_model

_BUCKET_BYTES = 25 * 2**20
"""DistributedDataParallel's default."""


class NoExchange(DataParallelWorker):
    """Trains on all ranks at once without any exchange: its step takes as long as one with a free
    exchange."""

    def wrap(
        self, module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Both unchanged."""
        return module, optimizer


def with_torch(place: Place, request: RunRequest, rounds: int) -> float:
    """Seconds for one exchange of a model's gradients with torch's gloo, in buckets as large as
    DDP's."""
    with group.membership(place):
        buckets = _buckets(_gradients(request))
        return _seconds(lambda: [dist.all_reduce(bucket) for bucket in buckets], rounds)


def with_horovod(place: Place, request: RunRequest, rounds: int) -> float:
    """Seconds for one exchange of the same gradients with Horovod, which fuses the tensors."""
    group.take_place(place)
    hvd.init()
    named = list(enumerate(_gradients(request)))

    def exchange() -> None:
        for handle in [
            hvd.allreduce_async_(gradient, name=str(number)) for number, gradient in named
        ]:
            hvd.synchronize(handle)

    seconds = _seconds(exchange, rounds)
    hvd.shutdown()
    return seconds


def size_of(place: Place, request: RunRequest) -> tuple[int, int]:
    """Tensors and bytes of a model's gradients."""
    del place
    gradients = _gradients(request)
    return len(gradients), sum(gradient.nbytes for gradient in gradients)


def _gradients(request: RunRequest) -> list[torch.Tensor]:
    return [
        torch.randn_like(parameter)
        for parameter in build_model(request.model, request.case.image_size).parameters()
    ]


def _buckets(gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    joined = torch.cat([gradient.flatten() for gradient in gradients])
    length = _BUCKET_BYTES // joined.element_size()
    return [joined[start : start + length] for start in range(0, len(joined), length)]


def _seconds(exchange: Callable[[], object], rounds: int) -> float:
    exchange()
    times = []
    for _ in range(rounds):
        start = time.monotonic()
        exchange()
        times.append(time.monotonic() - start)
    return sorted(times)[len(times) // 2]
