"""Steps that are timed for a prediction: a rank's own, without the others, and those of a framework
on a model without operators, which are what it adds.

    alone    forward, loss, backward, update                       of all weights, here
    bare     hooks, copies, collectives, update     of the framework's weights, no operators

All ranks time them at the same time, and take the slowest rank's figure. Not here: what follows
from them (prediction.py), the model without operators (bare_model.py).
"""

import importlib
import statistics
from itertools import pairwise
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank.bare_model import BareModel
from pytest_dnnbench.rank.frameworks.data_parallel import DataParallelWorker
from pytest_dnnbench.rank.frameworks.single import SingleWorker
from pytest_dnnbench.rank.timed_window import window_for
from pytest_dnnbench.rank.workloads.workload import Batch

_WARMUPS, _STEPS = 2, 7


def alone_seconds(place: Place, request: RunRequest) -> float:
    """A step of a rank that trains alone, in the form of the case, with all its minibatches."""
    worker = SingleWorker(place, request)
    worker.build()
    for _ in worker.run(_WARMUPS):
        pass
    window = window_for(worker.device)
    window.begin()
    window.open()
    for _ in worker.run(_STEPS):
        window.mark()
    timing = window.close()
    worker.give_up()
    ends_s = (timing.start_s, *timing.step_ends_s)
    return _slowest(place, [end_s - begin_s for begin_s, end_s in pairwise(ends_s)])


def bare_seconds(place: Place, request: RunRequest) -> float:
    """What the case's framework takes in a step on CPU ranks beside the passes of the model, the
    update included. All ranks are in torch's process group."""
    worker = bare_worker(worker_class(request), place, request)
    if worker.has_own_group:
        worker.connect()
    worker.build()
    minibatches: list[Batch] = [(torch.ones(1, 1), None)] * worker.passes
    seconds = []
    for _ in range(_WARMUPS + _STEPS):
        worker.bare.own_s = 0.0
        start_s = perf_counter()
        worker.train_step(minibatches)
        seconds.append(perf_counter() - start_s - worker.bare.own_s)
    if worker.has_own_group:
        worker.close()
    return _slowest(place, seconds[_WARMUPS:])


def worker_class(request: RunRequest) -> Any:
    """The class of the case's worker."""
    module, _, name = request.worker.partition(":")
    return getattr(importlib.import_module(module), name)


def bare_worker(kind: type[DataParallelWorker], place: Place, request: RunRequest) -> Any:
    """A worker of a framework whose model, once built, has no operators: `bare` is that model."""

    class Bare(kind):  # type: ignore[valid-type, misc] # a class that is known at run time only
        def wrap(
            self, module: nn.Module, optimizer: torch.optim.Optimizer
        ) -> tuple[nn.Module, torch.optim.Optimizer]:
            self.bare = BareModel(module, self.units)
            wrapped: tuple[nn.Module, torch.optim.Optimizer] = super().wrap(module, optimizer)
            return wrapped

        def _backward(self, batch: Batch) -> torch.Tensor:
            self.own_work.alone()
            loss: torch.Tensor = self.model(batch[0])
            self.own_work.together()
            loss.backward()  # type: ignore[no-untyped-call] # torch's gap
            return loss.detach()

    return Bare(place, request)


def _slowest(place: Place, seconds: list[float]) -> float:
    """The largest of the ranks' medians: in every step the others wait for that rank."""
    median = torch.tensor(statistics.median(seconds), dtype=torch.float64)
    if place.world_size > 1:
        dist.all_reduce(median, dist.ReduceOp.MAX)
    return median.item()
