"""How much slower do cases get on a machine that is slower by its yardstick?

    python -m benchmarks.slower_machine [--launches 5] [--models resnet18] [--shares 0.1,0.3]

Other processes take a share of every core's time, in turns of milliseconds, by computing or by
copying memory: so a host does that runs other machines. Launches with and without them take turns.
Prints per case how much slower the case's step and the yardstick get, and the ratio of the two (of
their logarithms). results/verdicts/machine_speed.py assumes that the ratio is at most EXPLAINED.
Some three minutes on two quiet cores.
"""

import argparse
import itertools
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE, MEASURE_MACHINE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import RunRequest
from pytest_dnnbench.results.records.measurement import Launch
from pytest_dnnbench.results.verdicts.machine_speed import EXPLAINED

WORKERS = {
    "single": ("pytest_dnnbench.rank.frameworks.single:SingleWorker", 1),
    "ddp": ("pytest_dnnbench.rank.frameworks.ddp:DdpWorker", 2),
}
TURN_S = 0.005


def take(core: int, share: float, kind: str) -> None:
    """Takes this share of a core's time until the process is killed."""
    os.sched_setaffinity(0, {core})
    source, copy = np.ones(1 << 15), np.empty(1 << 15)
    far, copied = np.ones(1 << 24), 0
    while True:
        until = time.monotonic() + share * TURN_S
        while time.monotonic() < until:
            if kind == "computing":
                np.multiply(source, 1.0001, out=copy)
            else:
                copied = (copied + (1 << 15)) % (1 << 24)
                np.copyto(far[copied : copied + (1 << 15)], source)
        time.sleep((1 - share) * TURN_S)


@contextmanager
def others(share: float, kind: str) -> Iterator[None]:
    """Runs one such process per core while the `with` lasts."""
    start = multiprocessing.get_context("spawn").Process
    taking = [
        start(target=take, args=(core, share, kind), daemon=True)
        for core in sorted(os.sched_getaffinity(0))
    ]
    for process in taking:
        process.start()
    time.sleep(0.5)
    try:
        yield
    finally:
        for process in taking:
            process.kill()
            process.join()


def main() -> None:
    """Prints a line per case, kind of work and share."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--launches", type=int, default=5)
    parser.add_argument("--models", default="resnet18")
    parser.add_argument("--shares", default="0.1,0.3")
    options = parser.parse_args()
    head = f"{'case':26}{'others':>18}{'case loses':>12}{'yardstick':>11}{'ratio':>8}"
    print(f"{head}   (explained up to {EXPLAINED:g})")
    with ForkServer() as server:
        for model, framework, kind, share in itertools.product(
            options.models.split(","),
            WORKERS,
            ("computing", "copying"),
            map(float, options.shares.split(",")),
        ):
            pairs = [_pair(server, framework, model, share, kind) for _ in range(options.launches)]
            case, yardstick = (statistics.median(losses) for losses in zip(*pairs, strict=True))
            print(
                f"{framework + ' ' + model:26}{f'{kind} {share:.0%}':>18}"
                f"{math.expm1(case):>12.1%}{math.expm1(yardstick):>11.1%}"
                f"{case / yardstick:>8.2f}",
                flush=True,
            )


def _pair(
    server: ForkServer, framework: str, model: str, share: float, kind: str
) -> tuple[float, float]:
    """How much slower the case and the yardstick get, as logarithms of ratios of seconds."""
    with others(share, kind):
        busy = _launch(server, framework, model)
    calm = _launch(server, framework, model)
    return busy[0] - calm[0], busy[1] - calm[1]


def _launch(server: ForkServer, framework: str, model: str) -> Sequence[float]:
    worker, ranks = WORKERS[framework]
    cores = len(os.sched_getaffinity(0))
    case = Case(framework, model, ranks, "train", batch_size=16)
    request = RunRequest(case, worker, Catalog().model(model), steps=12, warmup=3)
    reports = Ranks(server, ["cpu"] * ranks, threads=max(1, cores // ranks), timeout_s=600).launch(
        MEASURE, request
    )
    (yardstick,) = Ranks(server, ["cpu"], threads=cores, timeout_s=600).launch(MEASURE_MACHINE)
    return math.log(statistics.median(Launch(tuple(reports)).step_time_s)), math.log(yardstick)


if __name__ == "__main__":
    main()
