"""Change points: found where they are, and hardly ever where nothing changed. All samples are
seeded; benchmarks/history.py has larger simulations."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from pytest_dnnbench.results.statistics.change_points import change_points, fewest_sessions

Array = NDArray[np.float64]
Noise = Callable[[np.random.Generator, int], Array]


def normal(rng: np.random.Generator, sessions: int) -> Array:
    return rng.normal(0, 0.01, sessions)


def heavy(rng: np.random.Generator, sessions: int) -> Array:
    """Student's distribution with three degrees of freedom."""
    return np.asarray(0.01 * rng.standard_t(3, sessions))


def slow_days(rng: np.random.Generator, sessions: int) -> Array:
    """One session in ten is a third slower."""
    return normal(rng, sessions) - 0.3 * (rng.random(sessions) < 0.1)


@pytest.mark.parametrize("noise", [normal, heavy, slow_days])
def test_a_history_in_which_nothing_changed_has_a_change_in_one_of_a_hundred(noise: Noise) -> None:
    rng = np.random.default_rng(3)
    called = sum(bool(change_points(np.exp(noise(rng, 50)).tolist())) for _ in range(100))
    assert called <= 4  # of 100 at 1%: more with a probability of 0.3%


def test_a_step_of_5_percent_at_1_percent_of_noise_is_placed_within_a_session() -> None:
    rng = np.random.default_rng(5)
    for at in (5, 12, 25, 33, 45):
        figures = np.exp(normal(rng, 50))
        figures[at:] *= 0.95
        points = change_points(figures.tolist())
        nearest = min(points, key=lambda point: abs(point.at - at))
        assert abs(nearest.at - at) <= 1
        assert nearest.change == pytest.approx(-0.05, abs=0.015)
        low, high = nearest.interval
        assert low < nearest.change < high < 0
        assert nearest.chance <= 0.01
        assert len(points) == 1


def test_a_stretch_between_two_changes_is_seen_although_both_ends_are_alike() -> None:
    figures = np.exp(normal(np.random.default_rng(7), 40))
    figures[18:24] *= 0.95
    points = change_points(figures.tolist())
    assert [point.at for point in points] == pytest.approx([18, 24], abs=1)
    assert [point.change < 0 for point in points] == [True, False]


def test_steps_in_one_direction_are_told_apart() -> None:
    figures = np.exp(normal(np.random.default_rng(9), 45))
    figures[15:] *= 0.95
    figures[30:] *= 0.95
    assert [point.at for point in change_points(figures.tolist())] == pytest.approx([15, 30], abs=1)


def test_one_slow_session_is_no_change() -> None:
    figures = np.exp(normal(np.random.default_rng(11), 30))
    figures[14] *= 0.6
    assert change_points(figures.tolist()) == []


def test_figures_without_noise_change_where_they_change() -> None:
    (point,) = change_points([2e9] * 9 + [2.1e9] * 6)
    assert point.at == 9
    assert point.change == pytest.approx(0.05)
    assert change_points([2e9] * 30) == []


def test_too_short_a_history_says_nothing() -> None:
    assert change_points([]) == []
    assert change_points([1.0] * 3) == []
    assert change_points([1.0, 1.01, 0.99, 0.5, 0.51, 0.49]) == []


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_the_clearest_change_shows_in_the_fewest_sessions_and_in_no_fewer(rate: float) -> None:
    for count, changes in ((fewest_sessions(rate) - 1, 0), (fewest_sessions(rate), 1)):
        figures = [100.0 + number / 100 - 50 * (number >= count // 2) for number in range(count)]
        assert len(change_points(figures, rate=rate)) == changes


def test_the_same_history_gives_the_same_answer_and_the_unit_does_not_matter() -> None:
    figures = np.exp(normal(np.random.default_rng(13), 30))
    figures[17:] *= 1.06
    points = change_points(figures.tolist())
    assert points == change_points(figures.tolist())
    thousandth = change_points((figures / 1000).tolist())
    assert [point.at for point in thousandth] == [point.at for point in points] == [17]
