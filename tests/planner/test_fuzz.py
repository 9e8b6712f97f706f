"""Damaged profiles, plans and options: an answer, or an error of ours.

benchmarks/fuzz_planner.py runs a million.
"""

import pytest

from benchmarks.fuzz_planner import survivors


@pytest.mark.parametrize("seed", range(4))
def test_damaged_inputs_of_the_planner_are_answered_or_refused(seed: int) -> None:
    answered, refused = survivors(250, seed)
    assert answered + refused == 250
    assert answered > 10
    assert refused > 100
