"""How long a warm-up lasts and how many steps are timed, on times that a test gives."""

import math
from collections.abc import Callable

import pytest

from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.rank.warmup import CPU, CUDA, LEAST_STEPS, Bounds, Warmup, whole_turns
from pytest_dnnbench.run_length import AUTO


def warm(plan: Warmup, step_s: Callable[[int], float]) -> list[int]:
    """Runs a warm-up on steps of which number n takes step_s(n); the stretches that it ran."""
    stretches = []
    while steps := plan.next_stretch():
        first = plan.steps
        plan.ran(steps, sum(step_s(number) for number in range(first, first + steps)))
        stretches.append(steps)
    return stretches


def test_even_steps_are_steady_at_once() -> None:
    plan = Warmup("auto", CPU)
    assert warm(plan, lambda _: 0.064) == [1, 1, 1]
    assert (plan.steps, plan.steady) == (LEAST_STEPS, True)
    assert plan.seconds == pytest.approx(3 * 0.064)


def test_cold_steps_are_warmed_until_two_stretches_take_equally_long() -> None:
    # The first two steps take 138 ms and the next ones 10, as on a GPU that still loads kernels.
    plan = Warmup("auto", CUDA)
    stretches = warm(plan, lambda number: 0.138 if number < 2 else 0.010)
    assert plan.steady
    assert stretches[-1] == stretches[-2] >= 0.25 / 2 / 0.010
    assert CUDA.least_s <= plan.seconds < 2.0


def test_a_slow_decline_is_followed() -> None:
    plan = Warmup("auto", Bounds(stretch_s=0.01, least_s=0.0, most_s=100.0))
    warm(plan, lambda number: 0.01 * (1 + 9 * 0.8**number))
    # Steps n and n + 1 differ by 5% from 9 * 0.8^n * 0.2 = 0.05 * (1 + 9 * 0.8^(n+1)) on.
    first_alike = next(n for n in range(99) if 9 * 0.8**n * 0.2 <= 0.05 * (1 + 9 * 0.8 ** (n + 1)))
    assert (plan.steps, plan.steady) == (first_alike + 2, True)


def test_steps_that_never_get_steady_end_at_the_bound_and_say_so() -> None:
    plan = Warmup("auto", CPU)
    warm(plan, lambda number: 0.06 if number % 2 else 0.09)
    assert not plan.steady
    assert CPU.most_s <= plan.seconds < CPU.most_s * 0.09 / 0.06
    slow = Warmup("auto", CPU)
    assert warm(slow, lambda number: 3.0 + number) == [1, 1, 1]
    assert not slow.steady


@pytest.mark.parametrize("hit", range(9))
@pytest.mark.parametrize("lost_s", [0.05, 1.0, 5.0, 60.0])
@pytest.mark.parametrize("bounds", [CPU, CUDA])
def test_a_core_that_is_lost_for_a_while_does_not_end_the_warm_up(
    bounds: Bounds, lost_s: float, hit: int
) -> None:
    """Steps of 10 ms after three cold ones, and one step hit: the bound was reached by the hit,
    and what followed was timed cold."""

    def step_s(number: int) -> float:
        return 0.01 + 0.1 * max(0, 3 - number) + (lost_s if number == hit else 0.0)

    plan = Warmup("auto", bounds)
    stretches = warm(plan, step_s)
    assert plan.steady
    assert plan.steps - stretches[-1] - stretches[-2] >= 3, "the cold steps are not compared"
    assert stretches[-1] * 0.01 >= bounds.stretch_s / 2
    assert plan.seconds - lost_s >= bounds.least_s


@pytest.mark.parametrize("length", ["auto", "1s", 0, 3])
@pytest.mark.parametrize("hit", range(12))
def test_a_core_that_is_lost_makes_no_window_shorter(length: int | str, hit: int) -> None:
    """A second in the last stretch let a window of 5 s last 0.1 s."""
    plan = Warmup(length, CPU, measured=True)
    warm(plan, lambda number: 0.01 + (1.0 if number == hit else 0.0))
    assert plan.timed_steps(5.0) == pytest.approx(500, abs=1)


def test_stretches_that_are_never_alike_end_the_warm_up_at_its_bound() -> None:
    plan = Warmup(3, CPU, measured=True)
    stretches = 0
    while steps := plan.next_stretch():
        plan.ran(steps, steps * (0.05 if stretches % 2 else 0.2))
        stretches += 1
    assert CPU.most_s <= plan.seconds <= 3 * CPU.most_s
    assert plan.timed_steps(5.0) == 100


def test_seconds_are_kept_and_counts_too() -> None:
    plan = Warmup("2s", CPU)
    warm(plan, lambda _: 0.01)
    assert 2.0 <= plan.seconds < 2.0 + 0.1
    assert plan.steady
    counted = Warmup(7, CPU, measured=True)
    warm(counted, lambda _: 0.1)
    assert counted.steps >= 7


def test_a_given_length_that_leaves_nothing_to_compare_says_nothing_of_steadiness() -> None:
    """Before a window in seconds: three short steps, then a stretch for the pace."""
    plan = Warmup(3, CPU, measured=True)
    plan.ran(plan.next_stretch(), 0.01)
    plan.ran(plan.next_stretch(), 0.05)
    assert plan.next_stretch() == 0
    assert plan.was_steady is None
    assert Warmup(AUTO, CPU).was_steady is False


def test_stretches_and_timed_steps_are_whole_turns() -> None:
    plan = Warmup("auto", CPU, turn=3, fill=4, measured=True)
    stretches = warm(plan, lambda _: 0.01)
    assert all(steps % 3 == 0 for steps in stretches)
    assert stretches[0] == 6, "enough to fill the pipeline"
    assert plan.timed_steps(0.5) % 3 == 0
    assert [whole_turns(steps, 3) for steps in (0, 1, 3, 4)] == [0, 3, 3, 6]


@pytest.mark.parametrize("length", ["auto", "1s", 0, 3])
def test_a_window_in_seconds_is_at_least_that_long(length: int | str) -> None:
    # A drained stretch of n steps takes the time of n + fill.
    fill, step_s = 4, 0.004
    plan = Warmup(length, CPU, fill=fill, measured=True)
    while steps := plan.next_stretch():
        cold_s = 0.138 if not plan.steps else 0.0
        plan.ran(steps, (steps + fill) * step_s + cold_s)
    assert 5.0 <= plan.timed_steps(5.0) * step_s <= 5.0 * 1.05


@pytest.mark.parametrize("seconds", [math.nan, -1.0, 0.0, math.inf])
def test_a_clock_by_which_no_warm_up_would_end_is_refused(seconds: float) -> None:
    plan = Warmup("auto", CPU)
    with pytest.raises(WrongResult, match=rf"counted {seconds} s for 1 warm-up steps"):
        plan.ran(plan.next_stretch(), seconds)
