"""Our cases beside the same training written by hand and started with torchrun, or for Horovod with
horovodrun: throughput, in interleaved pairs, and processor time.

    python -m benchmarks.by_hand [--frameworks ddp,fsdp,...] [--pairs 3] [--model resnet18]
                                 [--tp-model gpt-tiny] [--batch-size 8] [--steps 10]
                                 [--device cuda]

Ours / theirs should be at least 0.98: measuring with us costs nothing. Both sides have as many
threads, the same heap and sizes; of FSDP they wrap the same blocks, of tensor parallelism they
split the same layers, of a pipeline they run the same stages, whose schedule learns the sizes of
its messages by itself there. On GPUs each rank has one of its own. Both are fresh processes in each
pair: a process that has trained before has a warm heap. Processor time of a step, over all ranks,
is printed too: it hardly depends on other work on the machine. `pipedream` and its variants are our
own: no library has them, so nobody writes them by hand. With the defaults, some nine minutes on two
idle cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.pairs import compare
from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.case_run import load
from pytest_dnnbench.controller.forkserver import PRELOAD, ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.controller.route import LOOPBACK_INTERFACE
from pytest_dnnbench.controller.server_environment import DEFAULTS
from pytest_dnnbench.messages import PlanDecision, RankReport, RunRequest
from pytest_dnnbench.planner.synchronous import RULES, pipelines_of
from pytest_dnnbench.results.records.measurement import Launch

SCRIPT = ("--module", "benchmarks.torchrun_loops")
"""Not by its path: this folder would be first on sys.path, its names before those of libraries."""

FRAMEWORKS = ("single", "ddp", "horovod", "fsdp", "tp", *RULES)
"""Those that libraries have."""


def run_by_hand(
    ranks: Ranks, arguments: Sequence[str], *, horovod: bool = False
) -> dict[str, float]:
    """What the script prints under torchrun or horovodrun, in processes of its own, with as many
    threads per rank and as calm a heap as ours. Raises ChildProcessError where it prints no figure;
    what it has to say is on stderr."""
    command = [*(_horovodrun(ranks) if horovod else _torchrun(ranks)), *arguments]
    environment = {
        **DEFAULTS,
        **os.environ,
        "OMP_NUM_THREADS": str(ranks.placement.threads),
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    for line in done.stdout.splitlines():
        if '"rate"' in line:  # horovodrun writes the rank before it
            return dict(json.loads(line[line.index("{") :]))
    raise ChildProcessError(f"{' '.join(command)} ended with status {done.returncode}")


def _torchrun(ranks: Ranks) -> list[str]:
    count = f"--nproc-per-node={ranks.world_size}"
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", count, *SCRIPT]


def _horovodrun(ranks: Ranks) -> list[str]:
    horovodrun = str(Path(sys.executable).with_name("horovodrun"))
    where = ("--gloo", "--network-interfaces", LOOPBACK_INTERFACE)
    count = ("-np", str(ranks.world_size))
    return [horovodrun, *where, *count, sys.executable, "-m", SCRIPT[-1]]


@dataclass(frozen=True)
class Sides:
    """One framework's case, and the same written by hand. Each side notes the processor seconds of
    a step."""

    ranks: Ranks
    request: RunRequest
    script: Callable[[], dict[str, float]]
    our_work: list[float] = field(default_factory=list)
    their_work: list[float] = field(default_factory=list)

    def ours(self) -> float:
        """Samples per second of a launch."""
        rendezvous = load(Catalog().framework(self.request.case.framework).rendezvous)
        reports: list[RankReport] = self.ranks.launch(MEASURE, self.request, rendezvous=rendezvous)
        self.our_work.append(sum(float(str(each.details["cpu_s"])) for each in reports))
        return Launch(tuple(reports)).throughput

    def theirs(self) -> float:
        """Samples per second of a run of the script."""
        answer = self.script()
        self.their_work.append(answer["cpu_s"])
        return answer["rate"]

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
    row = Catalog().framework(framework)
    model = settings.tp_model if framework == "tp" else settings.model
    request = RunRequest(
        Case(
            framework,
            model,
            ranks.world_size,
            "train",
            image_size=settings.image_size,
            batch_size=settings.batch_size,
            device=settings.device,
            options=_options(framework, settings),
        ),
        f"benchmarks.processor_time:{framework}",
        Catalog().model(model),
        settings.steps,
        settings.warmup,
    )
    if row.planning:
        decision = ranks.launch(row.planning, request, returns=Any)[0]
        request = replace(request, plan=msgspec.convert(decision, PlanDecision))
    first = replace(request, steps=1, warmup=1)
    reports: list[RankReport] = ranks.launch(MEASURE, first, rendezvous=load(row.rendezvous))
    words = [f"--{name}={value}" for name, value in _by_hand(request, reports[0].details).items()]
    is_horovod = framework == "horovod"
    return Sides(ranks, request, partial(run_by_hand, ranks, words, horovod=is_horovod))


def _options(framework: str, settings: argparse.Namespace) -> dict[str, Any]:
    rule = RULES.get(framework)
    takes_several = rule is not None and not rule.one_at_a_time
    return {"microbatches": settings.microbatches} if takes_several else {}


def _by_hand(request: RunRequest, details: Any) -> dict[str, Any]:
    """The script's options for a case, of which a launch has told these details."""
    case, decision = request.case, request.plan
    rule = RULES.get(case.framework)
    options: dict[str, Any] = {
        "loop": rule.torch_class if rule else case.framework,
        "device": case.device,
        "model": request.model,
        "image-size": case.image_size,
        # Ranks of tensor parallelism share their samples.
        "batch-size": case.batch_size * (case.gpus if case.framework == "tp" else 1),
        "microbatches": case.options.get("microbatches", 1),
        "steps": request.steps,
        "warmup": request.warmup,
        "wrap": ",".join(name for name in details.get("wrapped", ()) if name != "(root)"),
        "split": json.dumps(details.get("split", {})),
    }
    if isinstance(decision, PlanDecision):
        pipelines = pipelines_of(case.framework, case.gpus, case.options)
        options["cuts"] = json.dumps([stage.operators for stage in decision.plan.stages])
        options["placed"] = json.dumps([pipelines.stages_of(rank) for rank in range(case.gpus)])
    return options


def _settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frameworks", default=",".join(FRAMEWORKS))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--model", default="resnet18", help="of images")
    parser.add_argument("--tp-model", default="gpt-tiny", help="of tokens")
    parser.add_argument("--image-size", type=int, default=28)
    parser.add_argument("--batch-size", type=int, default=8, help="of a microbatch, in pipelines")
    parser.add_argument("--microbatches", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=3)
    settings = parser.parse_args()
    settings.names = settings.frameworks.split(",")
    if wrong := [name for name in settings.names if name not in FRAMEWORKS]:
        parser.error(f"{', '.join(wrong)}: choose from {', '.join(FRAMEWORKS)}")
    return settings


def main() -> None:
    """Prints a comparison for each framework."""
    settings = _settings()
    preload = [*PRELOAD, *(["horovod.torch"] if "horovod" in settings.names else [])]
    cores = len(os.sched_getaffinity(0))
    with ForkServer(preload) as server:
        server.wait_ready()
        for name in settings.names:
            count = 1 if name == "single" else settings.ranks
            cuda = [f"cuda:{rank}" for rank in range(count)]
            devices = cuda if settings.device == "cuda" else ["cpu"] * count
            ranks = Ranks(server, devices, threads=max(1, cores // count), timeout_s=600)
            both = sides(ranks, name, settings)
            case = both.request.case
            compare(
                f"throughput of {name} {case.model} on {count} {case.device} ranks, ours / by hand",
                both.ours,
                both.theirs,
                settings.pairs,
                "tok/s" if name == "tp" else "img/s",
            )
            print(both.work(), flush=True)


if __name__ == "__main__":
    main()
