"""Our cases beside the same training written by hand and started with torchrun: throughput, in
interleaved pairs.

    python -m benchmarks.by_hand [--frameworks ddp,fsdp,1f1b] [--pairs 5] [--model resnet18]
                                 [--batch-size 32] [--steps 20] [--device cuda]

Ours / theirs should be at least 0.98: measuring with us costs nothing. Both sides run in fresh
processes, with as many threads, on the same sizes; of FSDP they wrap the same blocks, of a pipeline
they run the same stages. On GPUs each rank has one of its own. Processor time of a step, over all
ranks, is printed too: it hardly depends on other work on the machine. With the defaults, some five
minutes on two idle cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from benchmarks.pairs import compare
from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.controller.server_environment import DEFAULTS
from pytest_dnnbench.messages import PlanDecision, RankReport, RunRequest
from pytest_dnnbench.planner.synchronous import RULES
from pytest_dnnbench.results.records.measurement import Launch

SCRIPT = ("--module", "benchmarks.torchrun_loops")
"""Not by its path: this folder would be first on sys.path, its names before those of libraries."""

DATA_PARALLEL = ("ddp", "fsdp")
SCHEDULES = tuple(
    name for name, rule in RULES.items() if rule.stages_per_rank == 1 and not rule.one_at_a_time
)
"""Of torch, with one stage on each rank."""


_WORKERS = {"ddp": "Ddp", "fsdp": "Fsdp"}


def torchrun(ranks: Ranks, arguments: Sequence[str]) -> dict[str, float]:
    """What the script prints under torchrun, with as many threads per rank and as calm a heap as
    ours."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={ranks.world_size}",
    ]
    variables = {
        "OMP_NUM_THREADS": str(ranks.placement.threads),
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    answer = subprocess.run(
        [*command, *SCRIPT, *arguments],
        env={**DEFAULTS, **os.environ, **variables},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return dict(json.loads(answer.stdout.splitlines()[-1]))


@dataclass(frozen=True)
class Sides:
    """One framework's case, and the same written by hand, which wraps these blocks. Each side notes
    the processor seconds of a step."""

    ranks: Ranks
    request: RunRequest
    wrapped: tuple[str, ...] = ()
    our_work: list[float] = field(default_factory=list)
    their_work: list[float] = field(default_factory=list)

    def ours(self) -> float:
        """Images per second of a launch."""
        reports: list[RankReport] = self.ranks.launch(MEASURE, self.request)
        self.our_work.append(sum(float(str(each.details["cpu_s"])) for each in reports))
        return Launch(tuple(reports)).throughput

    def theirs(self) -> float:
        """Images per second of a run of the script."""
        case, decision = self.request.case, self.request.plan
        rule = RULES.get(case.framework)
        settings: dict[str, Any] = {
            "loop": rule.torch_class if rule else case.framework,
            "device": case.device,
            "model": self.request.model,
            "image-size": case.image_size,
            "batch-size": case.batch_size,
            "microbatches": case.options.get("microbatches", 1),
            "steps": self.request.steps,
            "warmup": self.request.warmup,
            "wrap": ",".join(self.wrapped),
        }
        if isinstance(decision, PlanDecision):
            settings["cuts"] = json.dumps([stage.operators for stage in decision.plan.stages])
        words = [f"--{name}={value}" for name, value in settings.items()]
        answer = torchrun(self.ranks, words)
        self.their_work.append(answer["cpu_s"])
        return answer["img_s"]

    def work(self) -> str:
        """Processor time of both sides: medians, and the ratios of the pairs."""
        mine, other = statistics.median(self.our_work), statistics.median(self.their_work)
        ratios = [a / b for a, b in zip(self.our_work, self.their_work, strict=True)]
        return (
            f"  processor time of a step on all ranks: ours {1e3 * mine:.1f} ms, theirs"
            f" {1e3 * other:.1f} ms, median ratio {statistics.median(ratios):.3f}"
            f" (lowest {min(ratios):.3f}, highest {max(ratios):.3f})\n"
        )


def sides(ranks: Ranks, framework: str, settings: argparse.Namespace) -> Sides:
    """Both sides of a framework: its plan is made, and its blocks are asked for, once."""
    row, target = Catalog().framework(framework), Catalog().model(settings.model)
    case = Case(
        framework,
        settings.model,
        ranks.world_size,
        "train",
        image_size=settings.image_size,
        batch_size=settings.batch_size,
        device=settings.device,
        options={"microbatches": settings.microbatches} if framework in SCHEDULES else {},
    )
    worker = f"benchmarks.processor_time:{_WORKERS.get(framework, 'Schedule')}"
    request = RunRequest(case, worker, target, settings.steps, settings.warmup)
    if row.planning:
        decision = ranks.launch(row.planning, request, returns=Any)[0]
        request = replace(request, plan=msgspec.convert(decision, PlanDecision))
    reports: list[RankReport] = ranks.launch(MEASURE, replace(request, steps=1, warmup=1))
    wrapped = reports[0].details.get("wrapped", ())
    assert isinstance(wrapped, list | tuple)
    return Sides(ranks, request, tuple(name for name in wrapped if name != "(root)"))


def main() -> None:
    """Prints a comparison for each framework."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frameworks", default="ddp,fsdp,1f1b")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--model", default="resnet18", help="of images")
    parser.add_argument("--image-size", type=int, default=28)
    parser.add_argument("--batch-size", type=int, default=32, help="of a microbatch, in pipelines")
    parser.add_argument("--microbatches", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=5)
    settings = parser.parse_args()
    names = settings.frameworks.split(",")
    if wrong := [name for name in names if name not in (*DATA_PARALLEL, *SCHEDULES)]:
        parser.error(f"{', '.join(wrong)}: choose from {', '.join((*DATA_PARALLEL, *SCHEDULES))}")
    devices = [
        f"cuda:{rank}" if settings.device == "cuda" else "cpu" for rank in range(settings.ranks)
    ]
    threads = max(1, len(os.sched_getaffinity(0)) // settings.ranks)
    with ForkServer() as server:
        server.wait_ready()
        ranks = Ranks(server, devices, threads=threads, timeout_s=600)
        for name in names:
            both = sides(ranks, name, settings)
            compare(
                f"throughput of {name} {settings.model} on {settings.ranks} {settings.device}"
                " ranks, ours / torchrun",
                both.ours,
                both.theirs,
                settings.pairs,
                "img/s",
            )
            print(both.work(), flush=True)


if __name__ == "__main__":
    main()
