"""What a comparison can tell is known before it is made."""

import pytest

from pytest_dnnbench.results.statistics.design import (
    MOST_LAUNCHES,
    Precision,
    launches_for,
    precision,
)
from pytest_dnnbench.results.statistics.false_alarms import alpha_per_test
from pytest_dnnbench.results.statistics.noise import Noise

NOISE = Noise(0.01, 1000, 0.0, 1000, "learnt")
ALPHA = alpha_per_test(0.01, 36)


def test_a_sessions_rate_is_shared_by_its_tests() -> None:
    together = 1 - (1 - ALPHA) ** 36
    assert together == pytest.approx(0.01)
    assert alpha_per_test(0.01, 1) == pytest.approx(0.01)


def test_a_difference_of_two_medians_of_three() -> None:
    assert precision(NOISE, 3, [3]).error == pytest.approx(0.01 * (2 * 0.44867) ** 0.5)
    assert precision(NOISE, 1).error == 0.01


def test_noise_between_sessions_is_not_averaged_away_by_launches() -> None:
    restless = Noise(0.01, 1000, 0.02, 1000, "learnt")
    assert precision(restless, 10_000, [10_000]).error == pytest.approx(0.02 * 2**0.5, rel=0.01)
    assert precision(restless, 10_000, [10_000] * 5).error < 0.024


def test_degrees_of_freedom_are_those_of_the_part_that_matters() -> None:
    assert precision(Noise(0.01, 50, 0.0, 2), 3, [3]).dof == pytest.approx(50)
    assert precision(Noise(0.0, 50, 0.01, 2), 3, [3]).dof == pytest.approx(2)
    assert precision(Noise(0.0, 50, 0.0, 2), 3, [3]) == Precision(0.0, 50)


def test_reach_and_below_agree() -> None:
    exact = Precision(0.01, 7)
    assert exact.below(exact.reach(1e-4)) == pytest.approx(1 - 1e-4)
    assert Precision(0.0, 7).reach(1e-4) == 0.0
    assert [Precision(0.0, 7).below(difference) for difference in (-1.0, 0.0, 1.0)] == [
        0.0,
        0.5,
        1.0,
    ]


def planned(
    effect: float = 0.05, noise: Noise = NOISE, limit: float = 0.03, confirmation: bool = True
) -> int | None:
    return launches_for(
        effect, noise, limit=limit, alpha=ALPHA, history=[3] * 5, confirmation=confirmation
    )


def test_more_noise_or_a_smaller_effect_takes_more_launches() -> None:
    usual = planned()
    noisy = planned(noise=Noise(0.015, 1000, 0.0, 1000))
    small = planned(effect=0.045)
    assert usual is not None
    assert noisy is not None
    assert small is not None
    assert 3 <= usual < min(noisy, small) <= MOST_LAUNCHES


def test_a_second_look_saves_launches_of_the_first() -> None:
    noise = Noise(0.02, 1000, 0.0, 1000)
    single, twofold = planned(0.07, noise, confirmation=False), planned(0.07, noise)
    assert single is not None
    assert twofold is not None
    assert twofold < single


def test_no_number_is_promised_where_none_helps() -> None:
    assert planned(effect=0.03) is None  # as small as the limit
    assert planned(noise=Noise(0.01, 1000, 0.03, 1000)) is None  # sessions differ too much
    assert planned(noise=Noise(0.01, 3, 0.005, 2)) is None  # too little is known of them
