"""Our `horovod` case beside Horovod's own synthetic benchmark, written by hand and started with
horovodrun.

    python -m benchmarks.horovod_protocol [--pairs 5] [--model resnet18] [--ranks 2]
                                          [--image-size 28]

Both sides have the same settings. The ratio ours / theirs should be between 0.98 and 1.02: our
measurement makes training neither slower nor faster. The two differ on purpose in one thing: theirs
is rank 0's mean of rates times the ranks, ours all ranks' images over the wall time of the slowest.
On two virtual cores it takes some 30 pairs to detect 2%: see the interval.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.pairs import compare
from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import PRELOAD, ForkServer
from pytest_dnnbench.controller.horovod_rendezvous import horovod_rendezvous
from pytest_dnnbench.controller.rank_launcher import MEASURE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.controller.route import LOOPBACK_INTERFACE
from pytest_dnnbench.controller.server_environment import DEFAULTS
from pytest_dnnbench.messages import RunRequest
from pytest_dnnbench.results.records.measurement import Launch

SCRIPT = ("-m", "benchmarks.horovodrun_synthetic")
"""Not by its path: this folder would be first on sys.path, its names before those of libraries."""
WORKER = "pytest_dnnbench.rank.frameworks.horovod:HorovodWorker"


def ours(ranks: Ranks, settings: argparse.Namespace) -> float:
    """Images per second of one launch of the case."""
    case = Case(
        "horovod",
        settings.model,
        ranks.world_size,
        "train",
        batch_size=settings.batch_size,
        image_size=settings.image_size,
    )
    steps = settings.iterations * settings.batches
    target = Catalog().model(settings.model)
    request = RunRequest(case, WORKER, target, steps=steps, warmup=settings.warmup)
    return Launch(tuple(ranks.launch(MEASURE, request, rendezvous=horovod_rendezvous))).throughput


def theirs(ranks: Ranks, settings: argparse.Namespace) -> float:
    """Images per second of one run under horovodrun, with as many threads per rank and as calm a
    heap."""
    horovodrun = [
        str(Path(sys.executable).with_name("horovodrun")),
        "--gloo",
        "-np",
        str(ranks.world_size),
    ]
    names = ("batch_size", "image_size", "warmup", "iterations", "batches")
    options = [f"--{name.replace('_', '-')}={getattr(settings, name)}" for name in names]
    options.append(f"--model={Catalog().model(settings.model)}")
    answer = subprocess.run(
        [
            *horovodrun,
            "--network-interfaces",
            LOOPBACK_INTERFACE,
            sys.executable,
            *SCRIPT,
            *options,
        ],
        env={
            **DEFAULTS,
            **os.environ,
            "OMP_NUM_THREADS": str(ranks.placement.threads),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    line = next(line for line in answer.stdout.splitlines() if "img_s" in line)
    return float(json.loads(line[line.index("{") :])["img_s"])


def main() -> None:
    """Runs the comparison and prints its ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=28)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--batches", type=int, default=10, help="batches of one iteration")
    settings = parser.parse_args()
    threads = max(1, len(os.sched_getaffinity(0)) // settings.ranks)
    with ForkServer((*PRELOAD, "horovod.torch", WORKER.partition(":")[0])) as server:
        server.wait_ready()
        ranks = Ranks(server, ["cpu"] * settings.ranks, threads=threads, timeout_s=900)
        compare(
            f"throughput of horovod {settings.model} on {settings.ranks} ranks, ours / horovodrun",
            lambda: ours(ranks, settings),
            lambda: theirs(ranks, settings),
            settings.pairs,
            "img/s",
        )


if __name__ == "__main__":
    main()
