"""Is the slow rank blamed, and no rank where none is slow? On real ranks, with disturbed launches.

    python -m benchmarks.slow_ranks [--sessions 20] [--launches 3] [--frameworks ddp,horovod]
                                    [--model tests.tiny_models:tiny] [--batch-size 8]
                                    [--shares 0,0.05,0.1,0.2,0.5]

In each session of launches the last rank sleeps in every step, before its forward pass, for a share
of the step time measured beforehand. With share 0, any blame is false. A session in use leaves
disturbed launches out; here they count, so that a busy machine shows how good the rule is by
itself. Prints, for each share, how many sessions blame the right rank, a wrong rank and none. Two
CPU ranks; four minutes for the default. Fails on a wrong rank.
"""

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Sequence

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.catalog.frameworks import FRAMEWORKS
from pytest_dnnbench.controller.case_run import load
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import RunRequest
from pytest_dnnbench.results.records.measurement import Launch
from pytest_dnnbench.results.verdicts.straggler import LaunchTimes, straggler

WORKERS = {
    "ddp": "tests.rank.planted_workers:LateDdp",
    "horovod": "tests.horovod.workers:LateHorovod",
}
RANKS, STEPS, WARMUP = 2, 10, 3
LATE = RANKS - 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--launches", type=int, default=3)
    parser.add_argument("--frameworks", default="ddp,horovod")
    parser.add_argument("--model", default="tests.tiny_models:tiny")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--shares", default="0,0.05,0.1,0.2,0.5")
    return parser.parse_args()


def main() -> int:
    """Prints a line per framework and share; 1 if a session blames a rank that is not slow."""
    options = _options()
    wrong = 0
    print(
        f"{'framework':12}{'late by':>10}{'right':>8}{'wrong':>8}{'none':>8}"
        "   own work of each rank, ms (medians)"
    )
    with ForkServer() as server:
        ranks = Ranks(server, ["cpu"] * RANKS, threads=1, timeout_s=120)
        for framework in options.frameworks.split(","):
            step_s = statistics.median(
                launch.step_time_s
                for _ in range(3)
                for launch in _session(ranks, framework, 0.0, options)
            )
            for share in map(float, options.shares.split(",")):
                sessions = [
                    _session(ranks, framework, share * step_s, options)
                    for _ in range(options.sessions)
                ]
                blamed = [slow.rank if slow else None for slow in map(straggler, sessions)]
                counts = Counter(
                    "none" if rank is None else "right" if share and rank == LATE else "wrong"
                    for rank in blamed
                )
                wrong += counts["wrong"]
                print(
                    f"{framework:12}{share:>10.0%}"
                    f"{counts['right']:>8}{counts['wrong']:>8}{counts['none']:>8}   "
                    + ", ".join(f"{1e3 * seconds:.2f}" for seconds in _own_work_s(sessions))
                    + f" of a step of {1e3 * step_s:.2f}",
                    flush=True,
                )
    return int(wrong > 0)


def _own_work_s(sessions: Sequence[Sequence[LaunchTimes]]) -> list[float]:
    """Of each rank, the median over all launches."""
    launches = [launch for session in sessions for launch in session]
    return [
        statistics.median(launch.own_work_s[rank][1] for launch in launches)
        for rank in range(RANKS)
    ]


def _session(
    ranks: Ranks, framework: str, late_s: float, options: argparse.Namespace
) -> list[LaunchTimes]:
    case = Case(
        framework,
        options.model,
        RANKS,
        "train",
        batch_size=options.batch_size,
        options={"late_s": late_s, "late_rank": LATE},
    )
    target = Catalog().model(options.model)
    request = RunRequest(case, WORKERS[framework], target, steps=STEPS, warmup=WARMUP)
    rendezvous = load(next(row.rendezvous for row in FRAMEWORKS if row.name == framework))
    launches = [
        Launch(tuple(ranks.launch(MEASURE, request, rendezvous=rendezvous)))
        for _ in range(options.launches)
    ]
    return [
        LaunchTimes(statistics.median(launch.step_time_s), launch.own_work_s) for launch in launches
    ]


if __name__ == "__main__":
    sys.exit(main())
