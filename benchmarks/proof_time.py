"""How long the proof of a case takes, beside one of its launches at the defaults: a proof should
take no longer.

    python -m benchmarks.proof_time [--frameworks single,ddp,...] [--models resnet18,...]
                                    [--ranks 2] [--rounds 3]

Both run in fresh ranks, in turn, medians of the rounds: seconds from the request until the last
rank has answered, and the processor time of the rank that used most of it, which hardly depends on
other work on the machine. In a proof that rank is rank 0, whose reference the others wait for.
"""

import argparse
import os
import statistics
import time
from dataclasses import replace
from typing import Any

import msgspec

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.case_run import load
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import PlanDecision, RunRequest
from pytest_dnnbench.run_length import AUTO, TIMED_STEPS

FRAMEWORKS = "single,ddp,fsdp,pipedream,pipedream-2bw,pipedream-flush,mp,gpipe,1f1b,interleaved"
FRAMEWORKS += ",bfs,zero-bubble,zbv,dualpipev"
MODELS = "resnet18,resnet50,efficientnet_b0,gpt-nano"

PROVE, MEASURE = "benchmarks.processor_time:prove", "benchmarks.processor_time:measure"


def prepared(ranks: Ranks, framework: str, model: str) -> RunRequest:
    """The request of a case at the defaults, with its plan."""
    catalog = Catalog()
    row, target = catalog.framework(framework), catalog.model(model)
    case = Case(framework, model, ranks.world_size, "train", image_size=28, batch_size=32)
    request = RunRequest(case, row.worker, target, TIMED_STEPS, AUTO)
    if row.planning:
        decision = ranks.launch(row.planning, request, returns=Any)[0]
        request = replace(request, plan=msgspec.convert(decision, PlanDecision))
    return request


def timed(ranks: Ranks, request: RunRequest, code: str) -> tuple[float, float]:
    """Seconds, and the processor seconds of the rank that used most."""
    rendezvous = load(Catalog().framework(request.case.framework).rendezvous)
    start_s = time.monotonic()
    used_s = ranks.launch(code, request, rendezvous=rendezvous, returns=float)
    return time.monotonic() - start_s, max(used_s)


def measured(server: ForkServer, framework: str, model: str, world_size: int, rounds: int) -> str:
    """The row of a case."""
    threads = max(1, len(os.sched_getaffinity(0)) // world_size)
    ranks = Ranks(server, ["cpu"] * world_size, threads=threads, timeout_s=600)
    request = prepared(ranks, framework, model)
    pairs = [timed(ranks, request, PROVE) + timed(ranks, request, MEASURE) for _ in range(rounds)]
    proof, proof_cpu, launch, launch_cpu = (
        statistics.median(figures) for figures in zip(*pairs, strict=True)
    )
    return (
        f"| `{framework}`, {model} | {proof:.2f} | {launch:.2f} | {proof / launch:.2f}"
        f" | {proof_cpu:.2f} | {launch_cpu:.2f} | {proof_cpu / launch_cpu:.2f} |"
    )


def main() -> None:
    """Prints a row for each case, in seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frameworks", default=FRAMEWORKS)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    settings = parser.parse_args()
    print("| case | proof | launch | ratio | proof, processor | launch, processor | ratio |")
    print("|---|---|---|---|---|---|---|")
    with ForkServer() as server:
        server.wait_ready()
        for model in settings.models.split(","):
            for framework in settings.frameworks.split(","):
                world_size = 1 if framework == "single" else settings.ranks
                print(measured(server, framework, model, world_size, settings.rounds), flush=True)
    print(f"\nload average {', '.join(f'{each:.1f}' for each in os.getloadavg())}")


if __name__ == "__main__":
    main()
