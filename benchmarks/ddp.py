"""Our `ddp` case beside the same training written by hand and started with torchrun: throughput,
and start-up.

    python -m benchmarks.ddp [--pairs 5] [--model resnet18] [--batch-size 32] [--steps 20]

Throughput: ours / theirs should be at least 0.98: measuring with us costs nothing. Start-up: from
asking for two ranks to the end of their first step, ours / theirs should be at most 0.1. Both sides
build the model and do the step themselves, so start-up is shown for a small model too, where little
else is left.
"""

import argparse
import os
import time
from functools import partial

from benchmarks.by_hand import run_by_hand
from benchmarks.pairs import compare
from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import RankReport, RunRequest
from pytest_dnnbench.results.records.measurement import Launch

SMALL = "tests.tiny_models:tiny"


def ours(ranks: Ranks, settings: argparse.Namespace, steps: int, warmup: int) -> list[RankReport]:
    """One launch of the case in fresh ranks."""
    case = Case("ddp", settings.model, ranks.world_size, "train", batch_size=settings.batch_size)
    worker = "pytest_dnnbench.rank.frameworks.ddp:DdpWorker"
    target = Catalog().model(settings.model)
    return ranks.launch(MEASURE, RunRequest(case, worker, target, steps=steps, warmup=warmup))


def theirs(ranks: Ranks, settings: argparse.Namespace, steps: int, warmup: int) -> dict[str, float]:
    """One run under torchrun."""
    sizes = [f"--model={Catalog().model(settings.model)}", f"--batch-size={settings.batch_size}"]
    return run_by_hand(ranks, [*sizes, f"--steps={steps}", f"--warmup={warmup}"])


def main() -> None:
    """Runs both comparisons and prints their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    settings = parser.parse_args()
    with ForkServer() as server:
        server.wait_ready()
        ranks = Ranks(
            server, ["cpu"] * 2, threads=max(1, len(os.sched_getaffinity(0)) // 2), timeout_s=600
        )

        def our_start(started: argparse.Namespace) -> float:
            begin = time.monotonic()
            return max(report.step_end_s[0] for report in ours(ranks, started, 1, 0)) - begin

        def their_start(started: argparse.Namespace) -> float:
            begin = time.monotonic()
            return theirs(ranks, started, 1, 0)["first_step_at_s"] - begin

        compare(
            f"throughput of ddp {settings.model} on 2 ranks, ours / torchrun",
            lambda: Launch(tuple(ours(ranks, settings, settings.steps, 3))).throughput,
            lambda: theirs(ranks, settings, settings.steps, 3)["rate"],
            settings.pairs,
            "img/s",
        )
        for model in (settings.model, SMALL):
            started = argparse.Namespace(**{**vars(settings), "model": model})
            compare(
                f"time to the first finished step of {model}, ours / torchrun",
                partial(our_start, started),
                partial(their_start, started),
                settings.pairs,
                "s",
            )


if __name__ == "__main__":
    main()
