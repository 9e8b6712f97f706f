"""What a comparison can tell is known before it is made."""

from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import t as student

from pytest_dnnbench.results.statistics.design import (
    MOST_LAUNCHES,
    Precision,
    launches_for,
    precision,
)
from pytest_dnnbench.results.statistics.false_alarms import alpha_per_test
from pytest_dnnbench.results.statistics.noise import Noise

CALM, UNSURE = ((0.0, 1.0),), ((0.0, 0.5), (1.0, 0.3), (4.0, 0.2))
NOISE = Noise(0.01, 1000, CALM, "learnt")
ALPHA = alpha_per_test(0.01, 36)


def test_a_sessions_rate_is_shared_by_its_tests() -> None:
    together = 1 - (1 - ALPHA) ** 36
    assert together == pytest.approx(0.01)
    assert alpha_per_test(0.01, 1) == pytest.approx(0.01)


def test_a_difference_of_two_medians_of_three() -> None:
    assert precision(NOISE, 3, [3]).error == pytest.approx(0.01 * (2 * 0.44867) ** 0.5)
    assert precision(NOISE, 1).error == 0.01


def test_noise_between_sessions_is_not_averaged_away_by_launches() -> None:
    restless = Noise(0.01, 1e6, ((2.0, 1.0),))
    normal = NormalDist().inv_cdf(0.99)
    one_launch, five_launches = (
        precision(restless, 10_000, [10_000]),
        precision(restless, 10_000, [10_000] * 5),
    )
    assert one_launch.reach(0.01) == pytest.approx(0.02 * 2**0.5 * normal, rel=0.01)
    assert five_launches.reach(0.01) < 0.024 * normal


def test_what_is_not_known_of_sessions_counts_by_its_chance() -> None:
    """Against the same sum, written out for normal errors."""
    unsure = precision(Noise(0.01, 1e6, UNSURE), 1, [1])
    errors = [0.01 * (2 + 2 * ratio**2) ** 0.5 for ratio, _ in UNSURE]
    for distance in (0.0, 0.01, 0.05, 0.2):
        expected = sum(
            chance * NormalDist(0, error).cdf(distance)
            for error, (_, chance) in zip(errors, UNSURE, strict=True)
        )
        assert unsure.below(distance) == pytest.approx(expected, abs=1e-6)
        assert unsure.below(-distance) == pytest.approx(1 - expected, abs=1e-6)


def test_reach_and_below_agree() -> None:
    for exact in (Precision(0.01, 7), precision(Noise(0.01, 7, UNSURE), 3, [3])):
        for alpha in (1e-6, 1e-4, 0.01, 0.05, 0.3):
            assert exact.below(exact.reach(alpha)) == pytest.approx(1 - alpha, rel=1e-4 * alpha)
        assert exact.reach(0.5) == pytest.approx(0.0, abs=1e-6)
    assert Precision(0.0, 7).reach(1e-4) == 0.0
    assert [Precision(0.0, 7).below(difference) for difference in (-1.0, 0.0, 1.0)] == [
        0.0,
        0.5,
        1.0,
    ]


def planned(effect: float = 0.05, noise: Noise = NOISE, limit: float = 0.03) -> int | None:
    return launches_for(effect, noise, limit=limit, alpha=ALPHA, history=[3] * 5)


def test_more_noise_or_a_smaller_effect_takes_more_launches() -> None:
    usual = planned()
    noisy = planned(noise=Noise(0.015, 1000, CALM))
    small = planned(effect=0.045)
    assert usual is not None
    assert noisy is not None
    assert small is not None
    assert 3 <= usual < min(noisy, small) <= MOST_LAUNCHES


def test_no_number_is_promised_where_none_helps() -> None:
    assert planned(effect=0.03) is None  # as small as the limit
    assert planned(noise=Noise(0.01, 1000, ((3.0, 1.0),))) is None  # sessions differ too much
    assert planned(noise=Noise(0.01, 3, UNSURE)) is None  # too little is known of them


def test_a_reach_is_passed_with_its_probability() -> None:
    """Against the tail of Student's distribution itself, for mixtures of every kind."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        count = int(rng.integers(1, 23))
        sizes = np.sort(2.0 ** rng.uniform(0, 20, count))
        chances = rng.dirichlet(np.full(count, rng.choice([0.05, 0.3, 3.0]))) + 1e-9
        chances /= chances.sum()
        dof, alpha = float(rng.choice([0.5, 1, 3, 12.3, 400])), float(10 ** rng.uniform(-8, -1.2))
        factors = tuple(zip(sizes.tolist(), chances.tolist(), strict=True))
        reach = Precision(0.01, dof, factors).reach(alpha)
        tail = student.sf(reach / 0.01 / sizes, dof)
        assert float(chances @ tail) == pytest.approx(alpha, rel=1e-7)


def test_a_factor_of_next_to_no_chance_changes_nothing() -> None:
    """A damaged golden file had one of 1e-320, at which the division overflows."""
    damaged = Precision(0.01, 7, ((1.0, 1.0), (3.0, 1e-320)))
    assert damaged.reach(1e-4) == pytest.approx(Precision(0.01, 7).reach(1e-4))


@pytest.mark.parametrize("dof", [0.5, 3.0, 1e3, 1e9])
@pytest.mark.parametrize("factors", [((1.0, 1.0),), ((1.0, 0.9), (3.0, 0.1))])
def test_a_rate_of_next_to_nothing_has_a_reach(
    dof: float, factors: tuple[tuple[float, float], ...]
) -> None:
    """`--false-alarms 1e-310` ended in a division by zero."""
    exact = Precision(0.01, dof, factors)
    reaches = [exact.reach(10.0**-power) for power in (3, 30, 190, 250, 310)]
    assert all(0 < reach < float("inf") for reach in reaches)
    assert reaches == sorted(reaches)
    assert reaches[-2] == reaches[-1]
