"""How long planning takes, beside PipeDream's own optimizer where its recorded answers are at hand.

    python -m benchmarks.planner [--oracle FOLDER]

The folder holds oracle.json (outcomes and run times of the original) and profiles/. Without one,
only the self-made graphs are planned: models that the original does not finish, and thousands of
workers. Times are the least of three runs and hold everything but reading the file: states, search
and the plan. The original's are those recorded with its answers, on another day and with other
load. Fails if an answer differs from the original's.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.planner_graphs import chain, dense, inception, nasnet, residual
from pytest_dnnbench.planner.pipedream.planning import ORIGINAL, original_plan
from pytest_dnnbench.planner.plan import Plan
from pytest_dnnbench.planner.predict import CORRECTED, plan_for
from pytest_dnnbench.planner.profile import Profile
from pytest_dnnbench.planner.profile_file import read_profile

COST_MODELS = {CORRECTED: plan_for, ORIGINAL: original_plan}

REPETITIONS = 3
SLOW_S = 10.0
"""Rows of the original that took less say little about either."""

ITS_MEMORY_BYTES = 16e9

Shape = tuple[tuple[int, ...], tuple[float, ...]]
GRAPHS: list[tuple[str, Profile, Shape]] = [
    ("resnet101-like", residual(33), ((16,), (1.25e9,))),
    ("densenet121-like", dense(), ((16,), (1.25e9,))),
    ("densenet121-like", dense(), ((4, 4), (12e9, 1.25e9))),
    ("inception_v3-like", inception(), ((16,), (1.25e9,))),
    ("inception_v3-like", inception(), ((4, 4), (12e9, 1.25e9))),
    ("nasnet-like", nasnet(), ((16,), (1.25e9,))),
    ("nasnet-like", nasnet(), ((4, 4), (12e9, 1.25e9))),
]
CROWDS: list[tuple[str, Profile, Shape]] = [
    ("chain of 400", chain(400), ((4096,), (1.25e9,))),
    ("chain of 400", chain(400), ((8, 512), (12e9, 1.25e9))),
]


def main() -> int:
    """Prints one row per plan; 1 if an answer is not the original's."""
    options = _parser().parse_args()
    wrong = _beside_the_original(options.oracle) if options.oracle else 0
    print(f"\n{'graph':20}{'operators':>10}{'workers':>9}{'cost model':>12}{'ours s':>9}  plan")
    for name, profile, shape in GRAPHS:
        for cost_model in COST_MODELS:
            _self_made(name, profile, shape, cost_model)
    for name, profile, shape in CROWDS:
        _self_made(name, profile, shape, "corrected")
    return int(wrong > 0)


def _beside_the_original(folder: Path) -> int:
    """Prints the rows on which the original took long; returns how many answers differ."""
    rows = [
        row for row in json.loads((folder / "oracle.json").read_text())["rows"] if row[8] == "ok"
    ]
    wrong = 0
    print(
        f"{'profile':10}{'workers':>9}{'options':>36}"
        f"{'ours s':>9}{'original s':>12}{'ratio':>9}  answer"
    )
    for row in sorted((row for row in rows if row[7] >= SLOW_S), key=lambda row: float(row[7])):
        name, workers, bandwidths, options, bottleneck_s = row[:5]
        profile = read_profile(folder / "profiles" / f"{name}.txt")
        plan, ours_s = _timed(partial(_as_asked, profile, workers, bandwidths, options))
        same = plan.bottleneck_s is not None and math.isclose(
            plan.bottleneck_s, bottleneck_s, rel_tol=1e-9
        )
        wrong += not same
        settings = " ".join(f"{key}={value}" for key, value in options.items())
        settings += f" {min(bandwidths):.3g} B/s"
        print(
            f"{name:10}{'x'.join(map(str, workers)):>9}{settings:>36}"
            f"{ours_s:9.3f}{row[7]:12.1f}{row[7] / ours_s:9.0f}"
            f"  {'same' if same else 'DIFFERENT'}",
            flush=True,
        )
    return wrong


def _as_asked(
    profile: Profile, workers: list[int], bandwidths: list[float], options: dict[str, Any]
) -> Plan:
    return original_plan(
        profile,
        workers,
        bandwidths,
        memory_bytes=options.get("mem", ITS_MEMORY_BYTES) if options.get("memc") else None,
        replication=not options.get("straight", False),
        activation_compression=options.get("acr"),
    )


def _self_made(name: str, profile: Profile, shape: Shape, cost_model: str) -> None:
    plan, ours_s = _timed(partial(COST_MODELS[cost_model], profile, *shape))
    workers = "x".join(map(str, shape[0]))
    stages = plan.shape if len(plan.stages) <= 8 else f"{len(plan.stages)} stages"
    print(
        f"{name:20}{len(profile.operators):10}{workers:>9}{cost_model:>12}{ours_s:9.3f}  {stages}",
        flush=True,
    )


def _timed(plan: Callable[[], Plan]) -> tuple[Plan, float]:
    """The plan, and the least time that it took."""
    times = []
    for _ in range(REPETITIONS):
        begun = time.perf_counter()
        answer = plan()
        times.append(time.perf_counter() - begun)
    return answer, min(times)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Times the planner.")
    parser.add_argument(
        "--oracle", type=Path, metavar="FOLDER", help="with oracle.json and profiles/"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
