"""What a step of a framework takes beside what `--dnn-predict` says: a step of each rank alone and
the framework's own step, without operators, added up.

    python -m benchmarks.predicted_steps [--frameworks ddp,fsdp] [--models resnet18,...]
                                         [--ranks 2] [--rounds 9]

Of `tp`, whose ranks share a step: that of each rank's parts alone, and the step's collectives. The
kinds of step run in turn, in the same ranks, so that a busy machine slows all of them alike.
Medians of the rounds on rank 0: wall clock, and processor time, which hardly depends on other work.
In a session the steps are minutes apart, and the machine's speed changes too. A case that fails has
a row with its reason; the others run, and the benchmark ends with status 1.
"""

import argparse
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.case_run import load
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import DnnbenchError
from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank import group
from pytest_dnnbench.rank.frameworks.data_parallel import DataParallelWorker
from pytest_dnnbench.rank.frameworks.single import SingleWorker
from pytest_dnnbench.rank.frameworks.tp import TpWorker
from pytest_dnnbench.rank.split_steps import SilentTpWorker, exchanges_of, replaying
from pytest_dnnbench.rank.trial_steps import bare_worker, gradient_pace, worker_class
from pytest_dnnbench.rank.workloads.workload import Batch

CLOCKS: dict[str, Callable[[], float]] = {
    "wall clock": time.perf_counter,
    "processor": time.process_time,
}
WARMUPS = 2

Seconds = dict[str, tuple[float, float]]
"""By clock: of a step, predicted and as it is."""


class Alone(SingleWorker):
    """Steps without the others; `update_s` are the seconds of the last update."""

    update_s = 0.0
    read: Callable[[], float] = staticmethod(time.perf_counter)

    def update(self) -> None:
        """As DataParallelWorker.update, timed."""
        start_s = self.read()
        super().update()
        self.update_s = self.read() - start_s


def steps(place: Place, request: RunRequest, rounds: int) -> Seconds:
    """By clock: median seconds predicted, and of the step itself."""
    kind: type[DataParallelWorker] = worker_class(request)
    if issubclass(kind, TpWorker):
        return split_steps(place, request, rounds)
    with group.membership(place):
        real, alone = kind(place, request), Alone(place, request)
        if real.has_own_group:
            real.connect()
        pace = gradient_pace(place, request) if kind.exchanges_on_arrival else ()
        bare = bare_worker(kind, place, request, pace)
        for worker in (real, alone, bare):
            worker.build()
        return {clock: in_turn(alone, real, bare, rounds, read) for clock, read in CLOCKS.items()}


def split_steps(place: Place, request: RunRequest, rounds: int) -> Seconds:
    """As `steps`, of ranks that split layers."""
    with group.membership(place):
        exchange = replaying(exchanges_of(place, request))
        shard, real = SilentTpWorker(place, request), TpWorker(place, request)
        for worker in (shard, real):
            worker.build()
        batches = real._new_batches()
        answer = {}
        for clock, read in CLOCKS.items():
            figures = []
            for number in range(WARMUPS + rounds):
                batch = next(batches)
                predicted_s = seconds(shard, batch, read) + seconds_of(exchange, read)
                row = predicted_s, seconds(real, batch, read)
                figures += [row] if number >= WARMUPS else []
            predicted_s, real_s = map(statistics.median, zip(*figures, strict=True))
            answer[clock] = predicted_s, real_s
        return answer


def in_turn(
    alone: Alone, real: DataParallelWorker, bare: Any, rounds: int, read: Callable[[], float]
) -> tuple[float, float]:
    """The medians by one clock, which the model without operators takes as well, unless it keeps a
    pace by its thread's."""
    if bare.bare.clock is not time.thread_time:
        bare.bare.clock = read
    alone.read = read
    nothing: Batch = torch.ones(1, 1), None
    batches = real._new_batches()
    figures = []
    for number in range(WARMUPS + rounds):
        batch = next(batches)
        alone_s = seconds(alone, batch, read)
        bare.bare.own_s = 0.0
        bare_s = seconds(bare, nothing, read) - bare.bare.own_s
        if number >= WARMUPS:
            figures.append((alone_s - alone.update_s + bare_s, seconds(real, batch, read)))
        else:
            seconds(real, batch, read)
    predicted_s, real_s = map(statistics.median, zip(*figures, strict=True))
    return predicted_s, real_s


def seconds(worker: DataParallelWorker, batch: Batch, read: Callable[[], float]) -> float:
    """Of a step that all ranks begin together."""
    return seconds_of(lambda: worker.train_step([batch]), read)


def seconds_of(run: Callable[[], object], read: Callable[[], float]) -> float:
    """Of what all ranks begin together."""
    dist.barrier()
    start_s = read()
    run()
    return read() - start_s


def rows(ranks: Ranks, framework: str, model: str, rounds: int) -> Iterator[str]:
    """Of a case, by clock, in milliseconds. Raises DnnbenchError."""
    catalog = Catalog()
    row = catalog.framework(framework)
    case = Case(framework, model, ranks.world_size, "train", batch_size=32)
    request = RunRequest(case, row.worker, catalog.model(model), 1, 0)
    launched = "benchmarks.predicted_steps:steps", request, rounds
    first, *_ = ranks.launch(*launched, rendezvous=load(row.rendezvous))
    for clock, (predicted_s, real_s) in first.items():
        yield (
            f"| `{framework}`, {model} | {clock} | {predicted_s * 1e3:.0f} ms"
            f" | {real_s * 1e3:.0f} ms | {real_s / predicted_s - 1:+.1%} |"
        )


def main() -> None:
    """Prints the rows of each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frameworks", default="ddp,fsdp")
    parser.add_argument("--models", default="resnet18,efficientnet_b0")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    settings = parser.parse_args()
    threads = max(1, len(os.sched_getaffinity(0)) // settings.ranks)
    print("| case | clock | predicted | step | error |")
    print("|---|---|---|---|---|")
    failed = False
    with ForkServer() as server:
        ranks = Ranks(server, ["cpu"] * settings.ranks, threads=threads, timeout_s=600)
        for model in settings.models.split(","):
            for framework in settings.frameworks.split(","):
                try:
                    print(*rows(ranks, framework, model, settings.rounds), sep="\n", flush=True)
                except DnnbenchError as error:
                    failed = True
                    print(f"| `{framework}`, {model} | failed: {reason_of(error)} | | | |")
                    traceback.print_exc()
    sys.exit(int(failed))


def reason_of(error: DnnbenchError) -> str:
    """Its first line."""
    return next(iter(str(error).splitlines()), type(error).__name__)


if __name__ == "__main__":
    main()
