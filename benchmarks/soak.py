"""Soak: many launches in one session; neither the controller nor its fork server may grow.

    python -m benchmarks.soak [LAUNCHES]

Prints resident memory, descriptors, threads and temporary files of both processes along the way.
The exit status is 1 if one of them has grown. 500 launches of one CPU rank, every tenth of them
failing, take about a minute.
"""

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.case_run import prepare_run
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.machine import detect
from pytest_dnnbench.controller.rank_launcher import MEASURE, RankLauncher
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import DnnbenchError
from pytest_dnnbench.messages import RunRequest

SETTLED = 50
"""After this many launches caches and allocators are warm: growth is counted from there."""

MAY_GROW_KIB = 2048

Figures = dict[str, int]


def figures(pid: int) -> Figures:
    """What a process holds, and the temporary files of launches that it controls."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return {
        "resident_kib": int(status["VmRSS"].split()[0]),
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(status["Threads"]),
        "files": len(list(Path(tempfile.gettempdir()).glob(f"dnnbench-{pid}-*"))),
    }


def grown(before: Figures, now: Figures) -> list[str]:
    """The names of the figures that have grown by more than is allowed."""
    allowed = {"resident_kib": MAY_GROW_KIB}
    return [name for name in before if now[name] - before[name] > allowed.get(name, 0)]


def main(launches: int) -> int:
    """Makes the launches and compares."""
    case = Case("single", "tests.tiny_models:tiny", 1, "train", image_size=28, batch_size=4)
    with ForkServer() as server:
        ranks = Ranks(server, ["cpu"], threads=1, timeout_s=60)
        request = prepare_run(
            case,
            Catalog(),
            RankLauncher(ranks),
            detect("cpu"),
            steps=2,
            warmup=1,
            data=None,
        ).request
        assert isinstance(request, RunRequest)
        failing = replace(request, model="tests.no_such_module:model")
        settled: dict[str, Figures] = {}
        for number in range(1, launches + 1):
            try:
                ranks.launch(MEASURE, failing if number % 10 == 0 else request)
            except DnnbenchError:
                assert number % 10 == 0
            if number in (SETTLED, launches) or number % 100 == 0:
                assert server.pid is not None
                now = {"controller": figures(os.getpid()), "fork server": figures(server.pid)}
                print(number, now, flush=True)
                settled = settled or now
        bad = [f"{name}: {what}" for name in now for what in grown(settled[name], now[name])]
    print("grown: " + ", ".join(bad) if bad else "nothing has grown")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 500))
