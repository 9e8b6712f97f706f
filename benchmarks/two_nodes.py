"""Launches over two nodes, which are network namespaces of this machine (needs root): their
start-up beside torchrun's over the same two, and whether many of them leave something.

    python -m benchmarks.two_nodes [--pairs 5] [--launches 200] [--model resnet18]

Start-up: from asking for a rank on each node to the end of their first step, ours / torchrun. Ours
has its agents running, as in a session; torchrun is started on both nodes at once. Growth: of the
controller, both agents and their fork servers, memory, descriptors, threads and temporary files;
every tenth launch fails on the second node. The exit status is 1 if one of them has grown.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

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
from pytest_dnnbench.errors import DnnbenchError
from pytest_dnnbench.messages import RankReport, RunRequest
from pytest_dnnbench.proc import descendants_of
from tests.cluster.nodes import NAMES, cluster, namespaces, ranks

SMALL = "tests.tiny_models:tiny"
SETTLED = 40
"""After this many launches caches and allocators are warm: growth is counted from there."""


def request_of(model: str) -> RunRequest:
    """One step of ddp on two ranks."""
    case = Case("ddp", model, 2, "train", image_size=28, nodes=2)
    worker = "pytest_dnnbench.rank.frameworks.ddp:DdpWorker"
    return RunRequest(case, worker, Catalog().model(model), steps=1, warmup=0)


def our_start_s(nodes: Cluster, model: str) -> float:
    """Seconds to the end of the first step, by one clock."""
    job, begin_s = ranks(nodes), time.monotonic()
    reports = job.launch(MEASURE, request_of(model), returns=RankReport)
    ours = on_ours(reports, job.clock.offsets)
    return max(report.step_end_s[0] for report in ours) - begin_s


def their_start_s(enter: str, net: str, model: str) -> float:
    """The same of torchrun on both nodes. The namespaces share this machine's clock."""
    variables = {
        **DEFAULTS,
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "eth0",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    torchrun += [f"--master-addr={net}.2", "--master-port=29500"]
    script = [*SCRIPT, f"--model={Catalog().model(model)}", "--steps=1", "--warmup=0"]
    begin_s = time.monotonic()
    started = [
        subprocess.Popen(
            [
                *enter.format(node=node, index=index).split(),
                *torchrun,
                f"--node-rank={index}",
                *script,
            ],
            env=variables,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index, node in enumerate(NAMES)
    ]
    answers = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit("torchrun failed")
    return float(json.loads(answers[0].splitlines()[-1])["first_step_at_s"]) - begin_s


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


def main() -> int:
    """Both, on the same two nodes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--launches", type=int, default=200)
    parser.add_argument("--model", default="resnet18")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            namespaces(folder) as (enter, net),
            cluster(enter, folder / "leases", PRELOAD) as nodes,
        ):
            our_start_s(nodes, SMALL)  # waits until the fork servers are ready
            for model in (settings.model, SMALL):
                compare(
                    f"time to the first finished step of {model} on 2 nodes, ours / torchrun",
                    partial(our_start_s, nodes, model),
                    partial(their_start_s, enter, net, model),
                    settings.pairs,
                    "s",
                )
            return 0 if soak(nodes, settings.launches) else 1


if __name__ == "__main__":
    sys.exit(main())
