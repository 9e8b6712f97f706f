"""What is learnt of noise that is known: simulated sessions, seeded."""

import math
from dataclasses import asdict
from statistics import NormalDist

import numpy as np
import pytest

from benchmarks.simulated_sessions import Array, World, quiet, restless, suite
from pytest_dnnbench.errors import DataError
from pytest_dnnbench.results.statistics.noise import (
    ASSUMED,
    EXACT,
    MACHINE,
    MEMORY,
    TIME,
    Noise,
    Prior,
    baseline_of,
    learn,
    median_variance,
    prior_of,
    spread_of,
)
from pytest_dnnbench.results.statistics.suite_noise import pool


def cases(world: World, sessions: int, launches: int, seed: int = 0) -> list[list[list[float]]]:
    values: Array = world.sessions(np.random.default_rng(seed), sessions, launches)[0]
    by_case: list[list[list[float]]] = values.transpose(1, 0, 2).tolist()
    return by_case


def likelier(prior: Prior, least: float) -> float:
    """The chance of this ratio or a larger one."""
    return math.fsum(chance for ratio, chance in prior.ratios if ratio >= least)


def typical(noises: list[Noise], name: str) -> float:
    return float(np.sqrt(np.mean([getattr(noise, name) ** 2 for noise in noises])))


def test_both_parts_of_the_noise_are_found() -> None:
    world = World(np.full(40, 0.02), session_share=1.5, walk_sd=0.0, slope_sd=0.0, odd_cases=False)
    noises = [learn(sessions) for sessions in cases(world, MEMORY, 5)]
    assert typical(noises, "launch_sd") == pytest.approx(0.02, rel=0.05)
    assert typical(noises, "session_sd") == pytest.approx(0.03, rel=0.15)
    assert {(noise.source, noise.sessions, noise.launches) for noise in noises} == {
        ("learnt", MEMORY, 5 * MEMORY)
    }


def test_one_launch_adds_nothing_to_the_prior() -> None:
    noise = learn([[100.0]])
    assert (noise.source, noise.launch_sd, noise.launch_dof) == (
        "prior",
        TIME.launch_sd,
        TIME.launch_dof,
    )
    assert noise.ratios[:5] == TIME.ratios[:5]


def test_a_drifting_machine_is_as_noisy_as_its_drift() -> None:
    noise = learn([[0.98**number] * 3 for number in range(MEMORY)])
    assert noise.launch_sd < 0.002
    assert noise.session_sd > 0.04


def test_only_the_latest_sessions_count() -> None:
    calm, wild = [[100.0, 101.0, 99.0]] * MEMORY, [[50.0, 150.0, 100.0]] * 3
    assert learn(wild + calm) == learn(calm)
    assert baseline_of([[10.0], [20.0], [20.0], [20.0], [30.0], [30.0], [30.0]]) == 30.0


def test_memory_that_never_varies_keeps_a_tiny_floor() -> None:
    noise = learn([[2.0**30] * 3] * 3, prior_of("allocated_peak_bytes"))
    assert 0 < noise.launch_sd < 1e-6
    assert prior_of("throughput") is TIME
    assert EXACT.launch_sd < TIME.launch_sd


@pytest.mark.parametrize("count", [1, 2, 3, 6, 7, 12, 15, 30])
def test_variance_of_a_median(count: int) -> None:
    medians = np.median(np.random.default_rng(count).standard_normal((200_000, count)), axis=1)
    assert median_variance(count) == pytest.approx(np.var(medians), rel=0.02)


def test_noise_is_plain_data() -> None:
    noise = learn([[1.0, 1.1], [1.2, 1.3]])
    assert Noise(**asdict(noise)) == noise


def test_a_value_without_a_logarithm_is_refused() -> None:
    with pytest.raises(DataError, match="launch 2 has the value 0"):
        learn([[1.0, 0.0]])
    with pytest.raises(DataError, match="without a launch"):
        learn([[1.0], []])
    for value in (math.nan, math.inf, -1.0):
        with pytest.raises(DataError, match="launch 2 has the value"):
            learn([[3.0, value, 1.0]])


def test_the_spread_of_a_history_by_its_definition() -> None:
    """With sessions of one to six launches, against the formulas written out."""
    rng = np.random.default_rng(0)
    sessions = [np.exp(0.01 * rng.standard_normal(1 + n % 6)).tolist() for n in range(12)]
    spread = spread_of(sessions)
    assert (spread.counts, spread.dof) == (list(map(len, sessions)), sum(map(len, sessions)) - 12)
    squares = sum(np.var(np.log(each)) * len(each) for each in sessions)
    assert spread.squares == pytest.approx(squares, rel=1e-12)
    means = [float(np.mean(np.log(each))) for each in sessions]
    for number in range(1, 12):
        before = slice(max(0, number - 5), number)
        share = median_variance(len(means[before]))
        error = means[number] - float(np.median(means[before]))
        assert spread.errors[number - 1] == pytest.approx(error / (1 + share) ** 0.5, rel=1e-9)
        launches = [1 / len(each) for each in sessions]
        variance = launches[number] + share * float(np.mean(launches[before]))
        assert spread.shares[number - 1] == pytest.approx(variance / (1 + share), rel=1e-12)


def test_ratios_become_likelier_by_bayes_rule() -> None:
    """Against the normal likelihood written out, launches being as good as known."""
    launches = [0.99, 1.0, 1.01]
    sessions = [[level * launch for launch in launches] for level in (100.0, 104.0, 99.0)]
    prior = Prior(0.01, 1e9, ((0.0, 0.5), (1.0, 0.3), (4.0, 0.2)))
    errors = [math.log(104 / 100) / 2**0.5, math.log(99 / 10400**0.5) / 1.5**0.5]
    weights = [
        chance * math.prod(NormalDist(0, 0.01 * (1 / 3 + r * r) ** 0.5).pdf(e) for e in errors)
        for r, chance in prior.ratios
    ]
    learnt = dict(learn(sessions, prior).ratios)
    for (ratio, _), weight in zip(prior.ratios, weights, strict=True):
        assert learnt[ratio] == pytest.approx(weight / sum(weights), rel=1e-4)


def test_what_is_assumed_of_sessions_is_a_distribution() -> None:
    for ratios in (ASSUMED, MACHINE.ratios):
        assert math.fsum(chance for _, chance in ratios) == pytest.approx(1, abs=1e-12)
    assert ASSUMED[-1][0] > 1e6


def test_memory_that_moves_between_sessions_gets_their_noise() -> None:
    levels = [1.0, 1.03, 0.98, 1.01, 0.97, 1.02, 1.0, 1.03]
    noise = learn([[2.0**30 * level] * 3 for level in levels], EXACT)
    assert 0.01 < noise.session_sd < 0.1
    calm = learn([[2.0**30] * 3] * 8, EXACT)
    assert calm.session_sd < 1e-5


def test_cases_that_are_alike_know_each_others_noise() -> None:
    prior = pool(cases(quiet(0.02), 5, 3))
    assert prior.launch_sd == pytest.approx(0.02, rel=0.1)
    assert prior.launch_dof == 10
    assert likelier(prior, 2.0) < 0.03


def test_a_few_cases_that_differ_leave_every_case_a_chance_to() -> None:
    assert likelier(pool(cases(restless(), 5, 3)), 2.0) == pytest.approx(3 / 36, rel=0.4)


def test_cases_that_are_unlike_say_little_about_each_other() -> None:
    assert pool(cases(suite(), 5, 3)).launch_dof < 4


def test_a_day_on_which_all_cases_were_slow_counts_as_one() -> None:
    """Two sessions that were all alike may be chance: of cases that move together they say less."""
    apart = [[[1.0, 1.01, 0.99]] * 3] * 36
    rng = np.random.default_rng(0)
    noisy = (np.exp(rng.standard_normal((36, 3, 3)) * 0.01)).tolist()
    days = [1.0, 1.01, 1.02]
    together = [
        [[value * day for value in launches] for launches, day in zip(case, days, strict=True)]
        for case in noisy
    ]
    assert likelier(pool(noisy), 4.0) < likelier(pool(together), 4.0)
    assert likelier(pool(apart), 4.0) < 0.1


def test_one_error_of_each_case_is_worth_two_cases_at_most() -> None:
    assert likelier(pool(cases(quiet(), 2, 3)), 4.0) > 4 * likelier(pool(cases(quiet(), 3, 3)), 4.0)


def test_too_few_cases_leave_the_prior_alone() -> None:
    assert pool(cases(quiet(), 5, 3)[:3]) == TIME
    assert pool([[[5.0] * 3] * 3] * 10, EXACT) == EXACT
    assert pool(cases(quiet(), 1, 3)).ratios == TIME.ratios
