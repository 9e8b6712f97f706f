"""`dnnbench bisect`: how often it is right, and how many sessions it takes.

    python -m benchmarks.find_commit [--searches 1000]
    python -m benchmarks.find_commit --planted 3%    a repository with a planted slowdown, for real

Simulated: histories of 16 and of 200 commits, the change at any of them with equal probability, on
the machines of benchmarks/against.py (1% of noise between launches unless they say otherwise), with
the search's own code and its default error of 1%. `began`: good and bad were told apart, so that
the search began. Of those, `settled`, and of the settled `right` and `covered`, whose 95% interval
has the change. `sessions` has the first one in it, each of 8 pairs, the first of 8 to 16. `luck`: a
commit is faster or slower by so much for no reason, as another layout of the same code is. `twice`:
a second change of half the size at another commit; either is right.

Some 3 minutes on one quiet core. Fails if more than 1% of the settled searches are wrong, where
commits have no luck of their own.

Planted: 16 commits after good, whose timed function waits for 40 ms, and 3% longer from commit 11
on. Each launch is slower or faster by 1% of noise (a standard deviation, seeded by the launch's
number). What else the machine does has next to no part in it, so that a busy one will do. Some 5
minutes. Fails if another commit is named.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.against import WORLDS
from pytest_dnnbench.bisection.comparing import SessionPairs
from pytest_dnnbench.bisection.kept_search import SCHEMA, CommitsOf, Search
from pytest_dnnbench.bisection.search import Ending, run_search
from pytest_dnnbench.results.records.side_by_side import SideMetric
from pytest_dnnbench.results.statistics.paired import (
    MOST_ROUNDS,
    decide_pairs,
    looks,
    pair_prior,
)

CASE = "case"
ERROR = 0.01


@dataclass(frozen=True)
class Setting:
    """One row: a machine, the change, the number of commits after good, the luck of each commit,
    and whether there is a second change."""

    world: str
    change: float
    commits: int
    luck: float = 0.0
    twice: bool = False


@dataclass(frozen=True)
class Tried:
    """One simulated search."""

    began: bool
    settled: bool = False
    right: bool = False
    covered: bool = False
    sessions: int = 0


class SimulatedSessions:
    """Sessions of a machine whose every commit has a speed of its own."""

    def __init__(self, setting: Setting, rng: np.random.Generator) -> None:
        self._world, self._rng = WORLDS[setting.world], rng
        changed = rng.choice(np.arange(1, setting.commits + 1), 2, replace=False)
        sizes = [setting.change, setting.change / 2 if setting.twice else 0.0]
        self.changes = dict(zip(map(int, changed), sizes, strict=True))
        levels = setting.luck * rng.standard_normal(setting.commits + 1)
        for place, size in self.changes.items():
            levels[place:] += math.log1p(size)
        self.levels = levels

    def compare(
        self, search: Search, places: tuple[str, str], rounds: int, *, resume: bool
    ) -> SessionPairs:
        """As comparing.Sessions.compare; the looks of the first session are those of pytest's."""
        earlier, later = map(int, places)
        launches = self._world.session(self._rng, 2 * rounds, 0.0)[0]
        first, second = launches[0::2], launches[1::2]
        noise = np.where(np.arange(rounds) % 2 == 1, first - second, second - first)
        logs = [float(log) for log in noise + self.levels[later] - self.levels[earlier]]
        for look in looks(rounds):
            decision = decide_pairs(
                [math.exp(log) for log in logs[: look.rounds]],
                prior=pair_prior([]),
                alpha=search.error,
                share=look.share,
            )
            if decision.status != "no evidence" or decision.detectable < 0.03:
                break
        judged = SideMetric(
            status={"higher": "better", "lower": "worse"}.get(decision.status, "no evidence"),  # type: ignore[arg-type]
            a=1.0,
            b=1.0,
            change=decision.change,
            interval=decision.interval,
            detectable=decision.detectable,
            pairs=look.rounds,
        )
        return SessionPairs(
            {CASE: logs[: look.rounds]}, {CASE: judged}, {}, frozenset({"throughput"})
        )


def new_search(commits: int, error: float = ERROR) -> Search:
    """A search of so many commits after good, whose names are their numbers."""
    return Search(
        schema=SCHEMA,
        history=CommitsOf("."),
        places=[str(number) for number in range(commits + 1)],
        arguments=["."],
        folder=".",
        metric="throughput",
        error=error,
        smallest=None,
        rounds=MOST_ROUNDS,
    )


def try_out(setting: Setting, rng: np.random.Generator) -> Tried:
    """One search."""
    sessions, search = SimulatedSessions(setting, rng), new_search(setting.commits)
    ending = run_search(search, sessions.compare, lambda: None, lambda _: None)
    if not isinstance(ending, Ending):
        return Tried(began=False)
    place = ending.best.at
    size = sessions.changes.get(place, 0.0)
    low, high = (ending.direct or ending.ends).interval
    return Tried(
        began=True,
        settled=ending.settled,
        right=size != 0.0,
        covered=low <= size <= high,
        sessions=len(search.comparisons),
    )


def settings() -> list[Setting]:
    """The rows."""
    rows = [
        Setting(world, -change, commits)
        for world in ("normal", "heavy", "drift", "sessions")
        for change in (0.05, 0.03, 0.02)
        for commits in (16, 200)
    ]
    rows += [Setting("modes", -0.15, commits) for commits in (16, 200)]
    rows += [Setting("normal", -0.03, 200, luck=luck) for luck in (0.002, 0.003, 0.005)]
    return [*rows, Setting("normal", -0.03, 200, twice=True)]


def share(tried: list[Tried], what: str) -> float:
    """Of these searches."""
    return float(sum(getattr(each, what) for each in tried) / max(len(tried), 1))


def simulate(searches: int) -> int:
    """Prints the table; 1 if a mark is missed."""
    missed = 0
    print(f"{'':10}{'change':>7}{'commits':>9}{'luck':>6}{'began':>8}{'settled':>9}", end="")
    print(f"{'right':>9}{'covered':>9}{'sessions':>10}{'most':>6}")
    for setting in settings():
        rng = np.random.default_rng(1)
        tried = [try_out(setting, rng) for _ in range(searches)]
        began = [each for each in tried if each.began]
        settled = [each for each in began if each.settled]
        print(
            f"{setting.world + (' twice' if setting.twice else ''):13}{setting.change:4.0%}"
            f"{setting.commits:9}{setting.luck:6.1%}{share(tried, 'began'):8.1%}"
            f"{share(began, 'settled'):9.1%}{share(settled, 'right'):9.2%}"
            f"{share(settled, 'covered'):9.1%}{share(settled, 'sessions'):10.1f}"
            f"{max((each.sessions for each in settled), default=0):6}",
            flush=True,
        )
        missed += not setting.luck and share(settled, "right") < 1 - ERROR
    return int(missed > 0)


STEP_S, NOISE = 0.04, 0.01
STEP = """
import random
import time

STEP_S = {seconds}  # commit {number}


def wait(noise, launches):
    with open(launches, "a") as count:
        count.write("x")
        launch = count.tell()
    step_s = STEP_S * (1 + random.Random(launch).gauss(0, noise))
    end_s = 0.0

    def step():
        # By a clock: that a busy machine wakes this rank late is not added up over the steps.
        nonlocal end_s
        end_s = (end_s or time.monotonic()) + step_s
        time.sleep(max(0.0, end_s - time.monotonic()))

    return step
"""
CASES = f"""
def test_wait(dnnbench, process_group):
    arguments = {{"noise": {NOISE}, "launches": "LAUNCHES"}}
    dnnbench.time("measured:wait", process_group(1), arguments=arguments)
"""
OPTIONS = ("test_cases.py", "-p", "no:cacheprovider", "--dnn-device", "cpu", "--gpus", "1")
WITHOUT_WARMUP = ("--dnn-warmup", "0", "--dnn-steps", "20")
"""A step of the clock above does not know of time that passes between warm-up and window."""


def make_repository(folder: Path, modules: Sequence[str]) -> None:
    """A git repository with a commit for each text, which its module `measured` has."""
    folder.mkdir()
    author = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    run = ["git", "-C", str(folder), *author]
    subprocess.run([*run, "init", "--quiet"], check=True)
    for number, text in enumerate(modules):
        folder.joinpath("measured.py").write_text(text)
        subprocess.run([*run, "add", "."], check=True)
        subprocess.run(
            [*run, "commit", "--quiet", "--allow-empty", "-m", f"commit {number}"], check=True
        )


def planted(change: float) -> int:
    """A repository of 16 commits after good, in which one is slower by the change: for real. 1 if
    another one is named."""
    steps_s = [STEP_S] * 11 + [STEP_S * (1 + change)] * 6
    with tempfile.TemporaryDirectory() as scratch:
        folder, launches = Path(scratch), Path(scratch) / "launches"
        modules = [STEP.format(seconds=s, number=number) for number, s in enumerate(steps_s)]
        make_repository(folder / "repository", modules)
        folder.joinpath("test_cases.py").write_text(CASES.replace("LAUNCHES", str(launches)))
        (folder / "leases").mkdir(mode=0o700)  # ranks that wait need no core to themselves
        own = {
            "DNNBENCH_LEASE_DIR": str(folder / "leases"),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
        begin_s = time.monotonic()
        answer = subprocess.run(
            [
                *(sys.executable, "-m", "pytest_dnnbench", "bisect", "--good", "HEAD~16"),
                *("--bad", "HEAD", "--repository", "repository", "--", *OPTIONS, *WITHOUT_WARMUP),
            ],
            cwd=folder,
            env={**os.environ, **own},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        took_s = time.monotonic() - begin_s
        print(answer.stdout)
        count = launches.stat().st_size if launches.exists() else 0
        print(f"{count} launches in {took_s / 60:.1f} minutes; load {os.getloadavg()[1]:.1f}")
    return int('"commit 11"' not in answer.stdout.strip().rpartition("\n")[2])


def main() -> int:
    """Prints a table, or the words of a search; 1 if a mark is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--searches", type=int, default=1000)
    parser.add_argument("--planted", metavar="CHANGE", help="search a real repository instead")
    options = parser.parse_args()
    if options.planted:
        return planted(float(options.planted.rstrip("%")) / 100)
    return simulate(options.searches)


if __name__ == "__main__":
    sys.exit(main())
