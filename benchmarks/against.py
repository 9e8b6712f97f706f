"""Two environments side by side, on simulated machines: false alarms and power of pairs, beside
those of stored baselines on the same machines.

    python -m benchmarks.against [--sessions 1000] [--jobs 2]

A session has 36 cases, at most 16 rounds and a false-alarm rate of 1%. False alarms: sessions of
equal sides in which any difference was called, in either direction. Power: the share of slowed
cases that were called; `rounds` is how many pairs a case took until its question was settled. The
stored baseline is of five sessions of three launches, and the session at hand has three, and three
fresh ones for a suspect, which only looks for changes for the worse.

The machines, at 1% of noise between launches unless they say otherwise:

    normal      independent normal noise
    heavy       Student's distribution with 3 degrees of freedom
    modes       each launch falls into one of two modes, 10% apart, with equal chance
    some modes  a third of the cases has these modes
    suite       cases of 1% to 11% of noise, as in detector.py
    drift       the level walks by 1% from launch to launch, and by 3% from session to session
    sessions    each case has 3% of its own from session to session

On a real machine that is disturbed on purpose: disturbed_machine.py.

Some 4 minutes on two quiet cores. Fails if a rate of false alarms of pairs misses its mark.
"""

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from benchmarks.simulated_sessions import Array
from benchmarks.simulated_sessions import suite as suite_of_cases
from pytest_dnnbench.results.statistics.decision import confirm, decide
from pytest_dnnbench.results.statistics.false_alarms import alpha_per_test
from pytest_dnnbench.results.statistics.paired import MOST_ROUNDS
from pytest_dnnbench.results.statistics.suite_noise import pool
from pytest_dnnbench.results.verdicts.side_by_side import Compared, Questions

CASES, SESSION_ALPHA, LIMIT = 36, 0.01, 0.03
STORED, LAUNCHES = 5, 3
CHUNK = 50
NOISE = 0.01

Draw = Callable[[np.random.Generator, int], Array]
"""The logarithms of so many launches of each case: cases x launches."""


def _normal(rng: np.random.Generator, launches: int) -> Array:
    return NOISE * rng.standard_normal((CASES, launches))


def _heavy(rng: np.random.Generator, launches: int) -> Array:
    return np.asarray(NOISE / np.sqrt(3) * rng.standard_t(3, (CASES, launches)))


def _modes(rng: np.random.Generator, launches: int) -> Array:
    mode = 0.1 * (rng.random((CASES, launches)) < 0.5)
    return np.asarray(mode + 0.3 * _normal(rng, launches))


def _some_modes(rng: np.random.Generator, launches: int) -> Array:
    logs = _normal(rng, launches)
    logs[::3] = _modes(rng, launches)[::3]
    return logs


def _suite(rng: np.random.Generator, launches: int) -> Array:
    return np.asarray(
        suite_of_cases(CASES).launch_sd[:, None] * rng.standard_normal((CASES, launches))
    )


@dataclass(frozen=True)
class World:
    """A machine: the noise of launches, the steps of its level from launch to launch and from
    session to session, and what each case has of its own in a session."""

    draw: Draw = _normal
    launch_walk: float = 0.0
    session_walk: float = 0.0
    session_sd: float = 0.0

    def session(self, rng: np.random.Generator, launches: int, level: float) -> Array:
        """A session: launches of a case follow each other at once, those of different cases hours
        apart, so that each case has a walk of its own."""
        walk = np.cumsum(self.launch_walk * rng.standard_normal((CASES, launches)), axis=1)
        own = self.session_sd * rng.standard_normal((CASES, 1))
        return np.asarray(self.draw(rng, launches) + walk + own + level)


WORLDS = {
    "normal": World(),
    "heavy": World(_heavy),
    "modes": World(_modes),
    "some modes": World(_some_modes),
    "suite": World(_suite),
    "drift": World(launch_walk=0.01, session_walk=0.03),
    "sessions": World(session_sd=0.03),
}


@dataclass(frozen=True)
class Setting:
    """One row: a machine, by how much B, or the session at hand, is slower, and the change that
    its user asks for."""

    world: str
    slowdown: float = 0.0
    with_stored: bool = False
    most: int = MOST_ROUNDS
    interesting: float = LIMIT


@dataclass
class Tally:
    """What came of the sessions; `covered` counts the cases whose interval has the true change."""

    sessions: int = 0
    cases: int = 0
    alarmed: int = 0
    called: int = 0
    wrong_sign: int = 0
    covered: int = 0
    rounds: int = 0
    stored_alarmed: int = 0
    stored_called: int = 0

    def merge(self, other: "Tally") -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


def try_out(setting: Setting, sessions: int, seed: int) -> Tally:
    """Simulates sessions, each with a history of its own."""
    rng, tally, world = np.random.default_rng(seed), Tally(), WORLDS[setting.world]
    for _ in range(sessions):
        tally.sessions += 1
        tally.cases += CASES
        _compare(setting, world.session(rng, 2 * setting.most, 0.0), tally)
        if setting.with_stored:
            levels = np.cumsum(world.session_walk * rng.standard_normal(STORED + 1))
            values = [world.session(rng, 2 * LAUNCHES, level) for level in levels]
            _judge(setting, values, tally)
    return tally


def _compare(setting: Setting, logs: Array, tally: Tally) -> None:
    """Side by side: the launches of a case in the order A B B A ..., of which B is slower."""
    first, second = logs[:, 0::2], logs[:, 1::2]
    b_first = np.arange(setting.most) % 2 == 1
    a, b = np.where(b_first, second, first), np.where(b_first, first, second)
    true = -setting.slowdown / (1 + setting.slowdown)
    ratios = np.exp(b - a) * (1 + true)
    questions = Questions(
        CASES, {"throughput": Compared(setting.interesting)}, setting.most, SESSION_ALPHA
    )
    rounds = dict.fromkeys(map(str, range(CASES)), setting.most)
    for number in range(1, setting.most + 1):
        if planned := questions.planned(number):
            pairs = {
                case: {"throughput": ratios[int(case), : min(number, count)].tolist()}
                for case, count in rounds.items()
            }
            questions.look(planned, pairs)
            for case in rounds:
                if questions.is_settled(case):
                    rounds[case] = min(rounds[case], number)
    decisions = [questions.decisions[case]["throughput"] for case in rounds]
    calls = [each for each in decisions if each.status != "no evidence"]
    tally.alarmed += bool(calls)
    tally.called += len(calls)
    tally.wrong_sign += sum(each.status == "higher" for each in calls if setting.slowdown)
    tally.covered += sum(each.interval[0] <= true <= each.interval[1] for each in decisions)
    tally.rounds += sum(rounds.values())


def _judge(setting: Setting, sessions: list[Array], tally: Tally) -> None:
    """A stored baseline: the last session is at hand, and its second half confirms."""
    alpha = alpha_per_test(SESSION_ALPHA, CASES)
    past = [
        [np.exp(session[case, :LAUNCHES]).tolist() for session in sessions[:-1]]
        for case in range(CASES)
    ]
    now = np.exp(sessions[-1]) / (1 + setting.slowdown)
    prior, calls = pool(past), 0
    for case, history in enumerate(past):
        first, again = now[case, :LAUNCHES].tolist(), now[case, LAUNCHES:].tolist()
        about: dict[str, Any] = {"better": "higher", "limit": LIMIT, "alpha": alpha, "prior": prior}
        decision = decide(first, history, **about)
        if decision.suspect:
            decision = confirm(first, again, history, **about)
        calls += decision.status == "regressed"
    tally.stored_alarmed += bool(calls)
    tally.stored_called += calls


def main() -> int:
    """Prints both tables; 1 if a mark is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    missed = 0
    with ProcessPoolExecutor(options.jobs) as workers:
        print(f"Sessions of equal sides with a false alarm, of {options.sessions}:")
        print(f"{'':12}{'pairs':>8}{'rounds':>8}{'stored':>9}")
        for world in WORLDS:
            tally = _run(workers, Setting(world, with_stored=True), options.sessions)
            missed += tally.alarmed > 0.01 * tally.sessions
            print(
                f"{world:12}{tally.alarmed / tally.sessions:8.2%}"
                f"{tally.rounds / tally.cases:8.1f}{tally.stored_alarmed / tally.sessions:9.2%}",
                flush=True,
            )
        few = max(options.sessions // 10, CHUNK)
        print(f"\nSlowed cases that were called, of {few} sessions x {CASES} cases:")
        print(
            f"{'':12}{'slowed':>8}{'most':>6}{'pairs':>8}{'rounds':>8}{'covered':>9}{'stored':>9}"
        )
        for world in WORLDS:
            for slow, most in ((0.05, 16), (0.03, 16), (0.01, 120)):
                if most == MOST_ROUNDS or world in ("normal", "drift"):
                    setting = Setting(world, slow, True, most, min(slow, LIMIT))
                    _print_power(_run(workers, setting, few), setting)
    return int(missed > 0)


def _print_power(tally: Tally, setting: Setting) -> None:
    print(
        f"{setting.world:12}{setting.slowdown:8.0%}{setting.most:6}"
        f"{tally.called / tally.cases:8.1%}{tally.rounds / tally.cases:8.1f}"
        f"{tally.covered / tally.cases:9.1%}{tally.stored_called / tally.cases:9.1%}",
        flush=True,
    )


def _run(workers: ProcessPoolExecutor, setting: Setting, sessions: int) -> Tally:
    tally, parts = Tally(), range(max(sessions // CHUNK, 1))
    for part in workers.map(try_out, [setting] * len(parts), [CHUNK] * len(parts), parts):
        tally.merge(part)
    return tally


if __name__ == "__main__":
    sys.exit(main())
