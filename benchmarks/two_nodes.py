"""Launches over two nodes, which are network namespaces of this machine (needs root): their
start-up beside torchrun's over the same two, and whether many of them leave something.

    python -m benchmarks.two_nodes [--pairs 5] [--launches 200] [--model resnet18]
    python -m benchmarks.two_nodes --slurm [--pairs 5] [--model resnet18]

Start-up: from asking for a rank on each node to the end of their first step, ours / torchrun. Ours
has its agents running, as in a session; torchrun is started on both nodes at once. The processor
time of all processes of a launch, to their end, is printed too; it hardly depends on other work.
With --slurm, a Slurm of its own runs over the nodes (Debian's slurm-wlm and munge): inside an
allocation, our agents are job steps, and `srun torchrun` is a step per launch. Without it, also
growth: of the controller, both agents and their fork servers, memory, descriptors, threads and
temporary files; every tenth launch fails on the second node. The exit status is 1 if one of them
has grown.
"""

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from unittest.mock import patch

from benchmarks.by_hand import SCRIPT
from benchmarks.pairs import compare
from benchmarks.soak import Figures, figures, grown
from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.cluster import Cluster
from pytest_dnnbench.controller.forkserver import PRELOAD
from pytest_dnnbench.controller.rank_clock import on_ours
from pytest_dnnbench.controller.rank_launcher import MEASURE
from pytest_dnnbench.controller.server_environment import DEFAULTS
from pytest_dnnbench.controller.slurm import Slurm
from pytest_dnnbench.errors import DnnbenchError
from pytest_dnnbench.messages import RankReport, RunRequest
from pytest_dnnbench.proc import descendants_of, process_fields
from tests.cluster.nodes import NAMES, allocation, cluster, namespaces, ranks, slurm

TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
    "--master-port=29500",
)
SMALL = "tests.tiny_models:tiny"
SETTLED = 40
"""After this many launches caches and allocators are warm: growth is counted from there."""


def request_of(model: str) -> RunRequest:
    """One step of ddp on two ranks."""
    case = Case("ddp", model, 2, "train", image_size=28, nodes=2)
    worker = "pytest_dnnbench.rank.frameworks.ddp:DdpWorker"
    return RunRequest(case, worker, Catalog().model(model), steps=1, warmup=0)


def processor_s(nodes: Cluster) -> float:
    """The processor time of this process, of the agents with their fork servers, and of ranks that
    have ended."""
    agents = [pid for node in nodes.nodes if (pid := getattr(node, "pid", None))]
    lasting = [pid for agent in agents for pid in (agent, *descendants_of(agent))]
    # utime and stime, and both of children that have been waited for: proc(5).
    ticks = sum(int(field) for pid in lasting for field in process_fields(pid)[11:15])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def our_start_s(nodes: Cluster, model: str, work_s: list[float] | None = None) -> float:
    """Seconds to the end of the first step, by one clock. Adds the processor time of the whole
    launch to `work_s`."""
    job, work_before_s, begin_s = ranks(nodes), processor_s(nodes), time.monotonic()
    reports = job.launch(MEASURE, request_of(model), returns=RankReport)
    if work_s is not None:
        work_s.append(processor_s(nodes) - work_before_s)
    ours = on_ours(reports, job.clock.offsets)
    return max(report.step_end_s[0] for report in ours) - begin_s


def started_by_hand(enter: str, net: str) -> list[list[str]]:
    """The commands that start torchrun on both nodes, but for the script: one for each node."""
    torchrun = [*TORCHRUN, f"--master-addr={net}.2", "--node-rank={index}"]
    return [
        [word.format(node=node, index=index) for word in (*enter.split(), *torchrun)]
        for index, node in enumerate(NAMES)
    ]


def started_by_srun(net: str) -> list[list[str]]:
    """The same inside an allocation of Slurm: one command for both nodes."""
    srun = ["srun", "-N2", "-n2", "--overlap", "--cpu-bind=none", "--mpi=none"]
    torchrun = [*TORCHRUN, f"--master-addr={net}.2"]
    own = f'exec {shlex.join(torchrun)} --node-rank="$SLURM_NODEID" "$@"'
    return [[*srun, "sh", "-c", own, "sh"]]


def their_start_s(commands: list[list[str]], model: str, work_s: list[float]) -> float:
    """The same of torchrun on both nodes. The namespaces share this machine's clock."""
    variables = {
        **DEFAULTS,
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "eth0",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    script = [*SCRIPT, f"--model={Catalog().model(model)}", "--steps=1", "--warmup=0"]
    begin_s, work_before_s = time.monotonic(), _children_s()
    started = [
        subprocess.Popen([*command, *script], env=variables, stdout=subprocess.PIPE, text=True)
        for command in commands
    ]
    answers = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit("torchrun failed")
    work_s.append(_children_s() - work_before_s)
    return float(json.loads(answers[0].splitlines()[-1])["first_step_at_s"]) - begin_s


def _children_s() -> float:
    """The processor time of children that have been waited for, and of theirs."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def compare_starts(nodes: Cluster, commands: list[list[str]], settings: argparse.Namespace) -> None:
    """Prints the comparison with torchrun for the model and for a small one, and where processes
    of ours do both sides' work, its processor time."""
    our_start_s(nodes, SMALL)  # waits until the fork servers are ready
    other = "srun torchrun" if settings.slurm else "torchrun"
    for model in dict.fromkeys((settings.model, SMALL)):
        our_work, their_work = list[float](), list[float]()
        compare(
            f"time to the first finished step of {model} on 2 nodes, ours / {other}",
            partial(our_start_s, nodes, model, our_work),
            partial(their_start_s, commands, model, their_work),
            settings.pairs,
            "s",
        )
        if not settings.slurm:  # whose daemons start what runs
            ratios = [mine / theirs for mine, theirs in zip(our_work, their_work, strict=True)]
            print(
                f"  processor time of a launch, all processes: ours {median(our_work):.2f} s,"
                f" theirs {median(their_work):.2f} s, median ratio {median(ratios):.3f}"
                f" (lowest {min(ratios):.3f}, highest {max(ratios):.3f})\n",
                flush=True,
            )


def processes(nodes: Cluster) -> dict[str, Figures]:
    """The figures of every process that lasts."""
    held = {"controller": figures(os.getpid())}
    for node in nodes.nodes:
        agent = getattr(node, "pid", None) or 0  # the engine's command becomes the agent
        held[f"agent of {node.name}"] = figures(agent)
        for number, pid in enumerate(descendants_of(agent)):
            held[f"fork server of {node.name}" + f" ({number})" * bool(number)] = figures(pid)
    return held


def soak(nodes: Cluster, launches: int) -> bool:
    """Makes the launches; whether nothing has grown."""
    job, request = ranks(nodes), request_of(SMALL)
    failing = replace(request, model="tests.no_such_module:model")
    settled: dict[str, Figures] = {}
    begin_s = time.monotonic()
    for number in range(1, launches + 1):
        try:
            job.launch(MEASURE, failing if number % 10 == 0 else request, returns=RankReport)
        except DnnbenchError:
            if number % 10:
                raise
        if number in (SETTLED, launches) or number % 100 == 0:
            now = processes(nodes)
            print(number, json.dumps(now), flush=True)
            settled = settled or now
    print(f"{launches} launches in {time.monotonic() - begin_s:.0f} s")
    bad = [f"{name}: {what}" for name in now for what in grown(settled.get(name, {}), now[name])]
    bad += [f"a new process: {name}" for name in set(now) - set(settled)]
    print("grown: " + ", ".join(bad) if bad else "nothing has grown")
    return not bad


@contextmanager
def inside_slurm(folder: Path, enter: str, net: str) -> Iterator[Slurm]:
    """Slurm's engine; this process is inside an allocation of both nodes meanwhile."""
    with (
        slurm(folder, enter, net) as variables,
        allocation(variables) as inside,
        patch.dict(os.environ, inside),
    ):
        yield Slurm(NAMES)


def main() -> int:
    """Start-up, and the growth of what runs without Slurm, on the same two nodes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--launches", type=int, default=200, help="0: none")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--slurm", action="store_true", help="start-up beside srun torchrun's")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as ends:
        folder = Path(name)
        enter, net = ends.enter_context(namespaces(folder))
        engine: str | Slurm = enter
        if settings.slurm:
            engine = ends.enter_context(inside_slurm(folder, enter, net))
        nodes = ends.enter_context(cluster(engine, folder / "leases", PRELOAD))
        commands = started_by_srun(net) if settings.slurm else started_by_hand(enter, net)
        compare_starts(nodes, commands, settings)
        only_start = settings.slurm or not settings.launches
        return 0 if only_start or soak(nodes, settings.launches) else 1


if __name__ == "__main__":
    sys.exit(main())
