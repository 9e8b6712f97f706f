"""How many steps are profiled."""

import pytest

from pytest_dnnbench.rank.breakdown.profiled_steps import steps_for


@pytest.mark.parametrize(
    ("step_s", "steps"), [(0.0, 30), (1e-9, 30), (0.01, 30), (0.05, 6), (0.07, 5), (60.0, 3)]
)
def test_short_steps_are_profiled_more_often_within_limits(step_s: float, steps: int) -> None:
    assert steps_for(step_s) == steps
