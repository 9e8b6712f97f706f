"""Steps that are timed for a prediction: a rank's own, without the others, and those of a framework
on a model without operators, which are what it adds.

    alone    forward, loss, backward, update                       of all weights, here
    bare     hooks, copies, collectives, update     of the framework's weights, no operators

A framework that exchanges what has come by then (DataParallelWorker.exchanges_on_arrival) needs to
know when: its gradients come in the bare steps as they did in a few backward passes of the rank
alone.

All ranks time them at the same time, and take the slowest rank's figure. Not here: what follows
from them (prediction.py), the model without operators (bare_model.py).
"""

import importlib
import statistics
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from operator import itemgetter
from time import perf_counter, thread_time
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank import group
from pytest_dnnbench.rank.bare_model import Arrival, BareModel
from pytest_dnnbench.rank.frameworks.data_parallel import DataParallelWorker
from pytest_dnnbench.rank.frameworks.single import SingleWorker
from pytest_dnnbench.rank.timed_window import window_for
from pytest_dnnbench.rank.workloads.workload import Batch

_WARMUPS, _STEPS = 2, 7
_PACED_STEPS = 3


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
    kind = worker_class(request)
    pace = gradient_pace(place, request) if kind.exchanges_on_arrival else ()
    worker = bare_worker(kind, place, request, pace)
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


class _PacedWorker(SingleWorker):
    """Notes when gradients come, in seconds of its thread since the backward pass began."""

    def __init__(self, place: Place, request: RunRequest) -> None:
        super().__init__(place, request)
        self.arrivals_s: list[tuple[str, float]] = []

    def build(self) -> None:
        """As SingleWorker.build, with a hook on each weight."""
        super().build()
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                note = partial(self._note, name)
                parameter.register_post_accumulate_grad_hook(note)  # type: ignore[no-untyped-call] # torch's gap

    def _note(self, name: str, _: torch.Tensor) -> None:
        self.arrivals_s.append((name, thread_time() - self._begun_s))

    def _backward(self, batch: Batch) -> torch.Tensor:
        with self.computing():
            loss = self.workload.loss_of(self.model, batch)
        self.arrivals_s.clear()
        self._begun_s = thread_time()
        loss.backward()  # type: ignore[no-untyped-call] # torch's gap
        return loss.detach()


def gradient_pace(place: Place, request: RunRequest) -> list[Arrival]:
    """When the gradients of a minibatch come on this rank alone, first to last: the medians of a
    few backward passes, all ranks at the same time."""
    worker = _PacedWorker(place, request)
    worker.build()
    passes: list[dict[str, float]] = []
    if place.world_size > 1:
        group.meet()
    for _ in worker.run(1 + _PACED_STEPS):
        passes.append(dict(worker.arrivals_s))
    worker.give_up()
    moments = {
        name: statistics.median(each.get(name, 0.0) for each in passes[1:]) for name in passes[-1]
    }
    in_order = sorted(moments.items(), key=itemgetter(1))
    befores = [0.0, *(moment for _, moment in in_order)]
    return [(name, now - before) for (name, now), before in zip(in_order, befores, strict=False)]


def bare_worker(
    kind: type[DataParallelWorker], place: Place, request: RunRequest, pace: Sequence[Arrival] = ()
) -> Any:
    """A worker of a framework whose model, once built, has no operators: `bare` is that model, with
    gradients at this pace."""

    class Bare(kind):  # type: ignore[valid-type, misc] # a class that is known at run time only
        def wrap(
            self, module: nn.Module, optimizer: torch.optim.Optimizer
        ) -> tuple[nn.Module, torch.optim.Optimizer]:
            self.bare = BareModel(module, self.units, pace)
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
