"""The detector in many worlds: at most one session in a hundred with a false alarm. The rules on
arrays, by which thousands of sessions are judged in seconds, are held to the detector itself."""

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.detection import Setting, try_out
from benchmarks.many_sessions import (
    CHANCES,
    WORLDS,
    at_first_comparison,
    by_chance,
    failed,
    learn,
)
from benchmarks.simulated_sessions import quiet, restless
from pytest_dnnbench.results.statistics import noise
from pytest_dnnbench.results.statistics.design import precision
from pytest_dnnbench.results.statistics.suite_noise import calmer, pool


@pytest.mark.parametrize(("cases", "stored"), [(1, 1), (1, 4), (4, 2), (12, 3), (12, 7)])
def test_the_rules_on_arrays_are_those_of_the_detector(cases: int, stored: int) -> None:
    world = restless(cases)
    values = world.sessions(np.random.default_rng(cases), stored + 1, 3)[0]
    logs = np.log(values)
    learnt = learn(logs[None, :-1])
    worse = np.linspace(0.01, 0.2, cases)[None]
    chances = by_chance(worse, logs[None, -1], learnt, stored)
    histories: list[list[list[float]]] = values[:-1].transpose(1, 0, 2).tolist()
    prior = pool(histories)
    for case, history in enumerate(histories):
        expected = noise.learn(history, prior)
        assert learnt.variance[0, case] == pytest.approx(expected.launch_sd**2)
        assert learnt.dof[0, case] == pytest.approx(expected.launch_dof)
        updated = expected.updated(logs[-1, case].tolist())
        exact = precision(updated, 3, [3] * stored)
        assert chances[0, case] == pytest.approx(1 - exact.below(worse[0, case]), rel=1e-4)


@pytest.mark.parametrize("seed", [0, 1, 3, 4])
def test_a_first_comparison_on_arrays_is_that_of_the_detector(seed: int) -> None:
    """In calm suites, and in one of which all sessions differ."""
    world = replace(restless(12), restless_cases=0 if seed else 12)
    values = world.sessions(np.random.default_rng(seed), 2, 3)[0]
    logs = np.log(values)
    learnt = at_first_comparison(learn(logs[None, :1]), logs[:1], logs[None, 1, :, :2])
    stored: list[list[float]] = values[0].tolist()
    now: list[list[float]] = values[1, :, :2].tolist()
    assumed = pool([[case] for case in stored])
    prior = calmer(assumed, list(zip(stored, now, strict=True)), "higher")
    chances = [chance for _, chance in prior.ratios]
    assert learnt.chances[0, 0].tolist() == pytest.approx(chances, rel=0.05)
    assert (chances != CHANCES.tolist()) == bool(seed)


@pytest.mark.parametrize(("cases", "stored", "rate"), [
    *((36, stored, 0.01) for stored in (1, 2, 5, 20)), (36, 3, 0.016), (12, 3, 0.022),
    (4, 2, 0.025), (1, 1, 0.042), (1, 3, 0.031),
])  # fmt: skip
def test_cases_of_which_some_have_sessions_that_differ_by_three_times_what_launches_do(
    cases: int, stored: int, rate: float
) -> None:
    """One case in twelve, and one at least, of the suite. `rate`: of docs/statistics.md."""
    sessions = 1000 if cases > 4 else 4000
    most = sessions * rate + 2 * math.sqrt(sessions * rate)
    assert failed(restless(cases), stored, sessions, seed=1).any(axis=1).sum() <= most


@pytest.mark.parametrize("name", ["quiet", "1 launch in 50: -20%", "to and fro by 2%"])
def test_worlds_of_twelve_cases_that_do_not_change(name: str) -> None:
    for stored in (1, 3, 5):
        assert failed(WORLDS[name](12), stored, 500).any(axis=1).sum() <= 5


def test_five_percent_are_found_at_the_defaults_from_five_stored_sessions_on() -> None:
    """36 cases of 1% noise; three stored sessions find most of them, and ten percent."""
    assert failed(quiet(), 5, 100, slower=0.05).mean() > 0.93
    assert failed(quiet(), 3, 100, slower=0.05).mean() > 0.78
    assert failed(quiet(), 3, 100, slower=0.1).mean() > 0.95
    assert failed(quiet(), 1, 100, slower=0.35).mean() > 0.95


@pytest.mark.parametrize(("slower_cases", "share"), [(1, 0.8), (3, 0.8), (12, 0.75), (36, 0.35)])
def test_a_fifth_slower_is_found_at_the_first_comparison(slower_cases: int, share: float) -> None:
    """Of 36 cases, the more surely the more of them are as they were."""
    calls = failed(quiet(), 1, 100, 0.2, slowed=slower_cases)
    assert calls[:, :slower_cases].mean() > share
    assert not calls[:, slower_cases:].any()


def test_arrays_and_detector_find_the_same_share_of_slowed_cases() -> None:
    tally = try_out(Setting("", quiet(cases=12), 5, 3, stored_launches=3, slowdown=0.05), 20, 3)
    share = failed(quiet(cases=12), 5, 200, slower=0.05).mean()
    assert tally.called["ours"] / tally.cases == pytest.approx(share, abs=0.06)
