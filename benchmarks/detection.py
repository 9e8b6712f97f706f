"""Tries the detector, and the rules of other tools, on simulated sessions: which of them report a
regression."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import mannwhitneyu

from benchmarks.simulated_sessions import Array, World
from pytest_dnnbench.metrics import YARDSTICK
from pytest_dnnbench.results.baselines.case_baseline import CaseBaseline
from pytest_dnnbench.results.records.launches import Launches
from pytest_dnnbench.results.statistics.decision import Decision, confirm, decide
from pytest_dnnbench.results.statistics.design import MOST_LAUNCHES, launches_for
from pytest_dnnbench.results.statistics.false_alarms import alpha_per_test
from pytest_dnnbench.results.statistics.noise import TIME, Noise, Prior, learn
from pytest_dnnbench.results.statistics.suite_noise import calmer, pool
from pytest_dnnbench.results.verdicts.machine_speed import machine_change

SESSION_ALPHA, LIMIT, EFFECT = 0.01, 0.03, 0.05
STEPS = 10
DEFAULT_LAUNCHES = 3


@dataclass(frozen=True)
class Setting:
    """One row: a machine, what is stored of it, and how the session at hand is measured.

    `launches` None: the tool chooses, from the noise that it estimates. `calibration`: A/A sessions
    measured for the noise alone, before those of the baseline. `pooled`: the noise of one case is
    estimated with the help of the others.
    """

    name: str
    world: World
    stored: int
    launches: int | None
    stored_launches: int = 5
    calibration: int = 0
    pooled: bool = True
    slowdown: float = 0.0


@dataclass
class Tally:
    """In how many sessions (`alarmed`) and cases (`called`) each rule reported a regression; the
    rest counts our rule's work."""

    sessions: int = 0
    cases: int = 0
    suspects: int = 0
    launches: int = 0
    alarmed: dict[str, int] = field(default_factory=dict)
    called: dict[str, int] = field(default_factory=dict)

    def add(self, rule: str, calls: Sequence[bool]) -> None:
        self.called[rule] = self.called.get(rule, 0) + sum(calls)
        self.alarmed[rule] = self.alarmed.get(rule, 0) + any(calls)

    def merge(self, other: "Tally") -> None:
        for name in ("sessions", "cases", "suspects", "launches"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for mine, theirs in ((self.alarmed, other.alarmed), (self.called, other.called)):
            for rule, count in theirs.items():
                mine[rule] = mine.get(rule, 0) + count


def try_out(setting: Setting, sessions: int, seed: int, others: bool = False) -> Tally:
    """Simulates sessions, each with a history of its own; with `others`, the same samples go
    through other rules."""
    rng, tally = np.random.default_rng(seed), Tally()
    earlier = setting.calibration + setting.stored
    for _ in range(sessions):
        values, yardsticks = setting.world.sessions(
            rng, earlier + 1, max(setting.stored_launches, 2 * MOST_LAUNCHES)
        )
        past, now = values[:-1, :, : setting.stored_launches], values[-1] / (1 + setting.slowdown)
        machine = Machine(yardsticks[:-1, :, : setting.stored_launches], yardsticks[-1])
        chosen = _ours(setting, past.transpose(1, 0, 2).tolist(), now.tolist(), tally, machine)
        tally.sessions += 1
        tally.cases += setting.world.cases
        if others:
            least = min(chosen)
            latest = setting.world.steps(rng, past[-1:], STEPS)[0]
            _other_rules(latest, setting.world.steps(rng, now[None, :, :least], STEPS)[0], tally)
    return tally


@dataclass(frozen=True)
class Machine:
    """The yardstick of stored sessions, sessions x cases x launches, and of the one at hand, cases
    x launches."""

    past: Array
    now: Array

    def explains(self, case: int, count: int, decision: Decision) -> bool:
        """Whether a change of this case, of so many launches, is the machine's."""
        measured = {YARDSTICK: Launches(tuple(self.now[case, :count].tolist()))}
        history = {YARDSTICK: self.past[:, case].tolist()}
        change = machine_change(measured, {}, CaseBaseline("", None, len(self.past), history))
        return change is not None and change.explains("throughput", decision)


def _ours(
    setting: Setting,
    past: list[list[list[float]]],
    now: list[list[float]],
    tally: Tally,
    machine: Machine,
) -> list[int]:
    """Judges every case of one session; returns the launches that each was measured with."""
    alpha = alpha_per_test(SESSION_ALPHA, setting.world.cases)
    prior = pool(past) if setting.pooled else TIME
    if setting.pooled and setting.stored == 1:
        early = (setting.launches or DEFAULT_LAUNCHES) - 1
        pairs = [(case[-1], new[:early]) for case, new in zip(past, now, strict=True)]
        prior = calmer(prior, pairs, "higher")
    calls, alone, counts = [], [], []
    for case, (sessions, values) in enumerate(zip(past, now, strict=True)):
        noise = learn(sessions, prior) if setting.calibration else None
        history = sessions[setting.calibration :]
        count = setting.launches or _chosen(noise or learn(sessions, prior), history, alpha)
        decision, suspect = _decided(values, history, count, alpha, noise, prior)
        alone.append(decision.status == "regressed")
        calls.append(alone[-1] and not machine.explains(case, 2 * count, decision))
        counts.append(count)
        tally.suspects += suspect
    tally.launches += sum(counts)
    tally.add("ours", calls)
    tally.add("no yardstick", alone)
    return counts


def _chosen(noise: Noise, history: list[list[float]], alpha: float) -> int:
    stored = [len(session) for session in history]
    return launches_for(EFFECT, noise, limit=LIMIT, alpha=alpha, history=stored) or DEFAULT_LAUNCHES


def _decided(
    values: list[float],
    history: list[list[float]],
    count: int,
    alpha: float,
    noise: Noise | None,
    prior: Prior,
) -> tuple[Decision, bool]:
    """The last word on a case, and whether it was measured a second time."""
    first, again = values[:count], values[count : 2 * count]
    look = decide(
        first, history, better="higher", limit=LIMIT, alpha=alpha, noise=noise, prior=prior
    )
    if not look.suspect:
        return look, False
    last = confirm(
        first, again, history, better="higher", limit=LIMIT, alpha=alpha, noise=noise, prior=prior
    )
    return last, True


def _other_rules(before: Array, after: Array, tally: Tally) -> None:
    """Rules of other tools on step times, cases x steps, against the latest stored session."""
    ratio = np.median(after, axis=-1) / np.median(before, axis=-1)
    one_sided = mannwhitneyu(after, before, alternative="greater", axis=-1).pvalue
    two_sided = mannwhitneyu(
        after, before, alternative="two-sided", axis=-1, method="asymptotic"
    ).pvalue
    tally.add("median:5%", (ratio > 1.05).tolist())
    tally.add("Mann-Whitney", (one_sided < 0.05).tolist())
    tally.add("asv", ((ratio > 1.1) & (two_sided < 0.002)).tolist())
