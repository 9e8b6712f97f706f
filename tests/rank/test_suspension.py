"""How long the machine slept, from readings of its clocks."""

import pytest

from pytest_dnnbench.rank.suspension import Reading, asleep_s, difference_s


def reading(at_s: float, slept_s: float, waits_s: tuple[float, float] = (1e-6, 1e-6)) -> Reading:
    """The three clocks, read from `at_s` on, on a machine that has slept; a process may lose its
    core between two of them."""
    before, after = waits_s
    return at_s, at_s + before + slept_s, at_s + before + after


def test_the_clocks_differ_by_the_time_asleep() -> None:
    assert difference_s([reading(100.0, 50.0)]) == pytest.approx(50.0, abs=1e-5)


@pytest.mark.parametrize("waits_s", [(3.0, 1e-6), (1e-6, 3.0)])
def test_a_process_that_loses_its_core_between_two_clocks_has_not_slept(
    waits_s: tuple[float, float],
) -> None:
    readings = [reading(100.0, 50.0, waits_s), reading(104.0, 50.0), reading(105.0, 50.0, waits_s)]
    assert difference_s(readings) == pytest.approx(50.0, abs=1e-5)


def test_real_clocks_agree_while_the_machine_is_awake() -> None:
    assert asleep_s() - asleep_s() == pytest.approx(0.0, abs=0.001)
