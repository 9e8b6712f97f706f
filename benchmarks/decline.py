"""A slow decline that no two neighbouring sessions show: the false alarms and the power of the look
at the first sessions of a history, on simulated sessions.

    python -m benchmarks.decline [--sessions 400] [--jobs 2]

False alarms: A/A sessions of 36 cases; the share of sessions in which this look called any case, at
most 0.1% wanted, a tenth of the session's 1%. On the walking machine all cases walk together by 1%
from session to session, on top of launches that differ by 1%: that is no decline of a case.
Declines: every session is slower than the one before by the given share, and is stored as if nobody
had minded; in which session half of the cases, and 95% of them, have been called.

With --anchor, the first five sessions are the user's anchor (`--dnn-anchor first`), which is held
to stay: a machine that walks away from it is called too, so only the worlds that stay have a mark.

Some 5 minutes on two quiet cores. Fails if the false alarms miss their mark.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np

from benchmarks.detection import LIMIT, SESSION_ALPHA
from benchmarks.simulated_sessions import World, quiet, rough, shared, suite
from pytest_dnnbench.metrics import THROUGHPUT, YARDSTICK
from pytest_dnnbench.results.baselines.case_baseline import CaseBaseline
from pytest_dnnbench.results.baselines.limits import Limit
from pytest_dnnbench.results.records.launches import Launches
from pytest_dnnbench.results.statistics.false_alarms import alpha_per_test
from pytest_dnnbench.results.statistics.noise import WINDOW
from pytest_dnnbench.results.verdicts.judge import judge, judge_again

LAUNCHES, MARK, CHUNK, LONGEST = 3, 0.001, 25, 20
WORLDS = {
    "suite": suite(),
    "rough machine": rough(),
    "slow days": shared(),
    "walking machine": replace(quiet(), walk_sd=0.01),
    "quiet": quiet(),
}
DECLINES = [
    (0.004, 0.005),
    (0.004, 0.01),
    (0.004, 0.015),
    (0.01, 0.005),
    (0.01, 0.01),
    (0.01, 0.02),
]
LIMITS = {THROUGHPUT: Limit(relative=-LIMIT, relative_source="default")}


def main() -> int:
    """Prints both tables; 1 if the mark is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--anchor", action="store_true")
    options = parser.parse_args()
    seeds = range(max(options.sessions // CHUNK, 1))
    missed = False
    with ProcessPoolExecutor(options.jobs) as workers:
        print(f"A/A sessions in which the look called any of 36 cases, of {CHUNK * len(seeds)}:")
        print(f"{'':20}" + "".join(f"{stored:>10} stored" for stored in (8, 12, 20)))
        for name, world in WORLDS.items():
            row = []
            for stored in (8, 12, 20):
                parts = workers.map(
                    partial(false_alarms, world, stored, anchored=options.anchor), seeds
                )
                rate = sum(parts) / (CHUNK * len(seeds))
                missed |= rate > MARK and name in ("suite", "quiet")
                row.append(f"{rate:17.2%}")
            print(f"{name:20}" + "".join(row), flush=True)
        print("\nDeclines: the session in which half, and 95%, of the cases have been called:")
        for launch_sd, step in DECLINES:
            half, most = called_at(launch_sd, step, seed=1, anchored=options.anchor)
            print(f"{step:.1%} a session, launches {launch_sd:.1%}: {half}, {most}", flush=True)
    return int(missed)


def false_alarms(world: World, stored: int, seed: int, *, anchored: bool = False) -> int:
    """In how many of CHUNK A/A sessions the look calls a case."""
    rng, alarmed = np.random.default_rng(seed), 0
    for _ in range(CHUNK):
        values, yardsticks = world.sessions(rng, stored + 1, 2 * LAUNCHES)
        alarmed += any(
            _called(values[:, case], yardsticks[:, case], world.cases, anchored=anchored)
            for case in range(world.cases)
        )
    return alarmed


def called_at(
    launch_sd: float, step: float, seed: int, *, anchored: bool = False
) -> tuple[int | None, int | None]:
    """The sessions from which on half, and 95%, of 36 cases are called at a decline."""
    world = quiet(launch_sd)
    values, yardsticks = world.sessions(np.random.default_rng(seed), LONGEST + 5, 2 * LAUNCHES)
    values = values * ((1 - step) ** np.arange(len(values)))[:, None, None]
    shares = [
        np.mean([
            _called(
                values[:count, case], yardsticks[:count, case], world.cases, anchored=anchored
            )
            for case in range(world.cases)
        ])
        for count in range(4, len(values) + 1)
    ]  # fmt: skip

    def first(share: float) -> int | None:
        return next((count for count, each in enumerate(shares, 4) if each >= share), None)

    return first(0.5), first(0.95)


def _called(
    values: np.ndarray, yardsticks: np.ndarray, cases: int, *, anchored: bool = False
) -> bool:
    """Whether this look fails the last of a case's sessions, sessions x launches, fresh launches
    and the machine's yardstick heard."""
    past = values[:-1, :LAUNCHES].tolist()[-LONGEST:]
    machine = yardsticks[:-1, :LAUNCHES].tolist()[-LONGEST:]
    baseline = CaseBaseline("", None, len(past), {THROUGHPUT: past, YARDSTICK: machine})
    if anchored:
        first_ones = {
            THROUGHPUT: values[:WINDOW, :LAUNCHES].tolist(),
            YARDSTICK: yardsticks[:WINDOW, :LAUNCHES].tolist(),
        }
        anchor = CaseBaseline("", None, WINDOW, first_ones)
        baseline = baseline.anchored_at(anchor, "first")
    first, fresh = (
        {
            THROUGHPUT: Launches(tuple(values[-1, part].tolist())),
            YARDSTICK: Launches(tuple(yardsticks[-1, part].tolist())),
        }
        for part in (slice(0, LAUNCHES), slice(LAUNCHES, 2 * LAUNCHES))
    )
    alpha = alpha_per_test(SESSION_ALPHA, cases)
    if not judge(first, baseline, LIMITS, alpha).suspects:
        return False
    verdict = judge_again(first, fresh, baseline, LIMITS, alpha).metrics[THROUGHPUT]
    return verdict.status == "regressed" and verdict.since is not None


if __name__ == "__main__":
    sys.exit(main())
