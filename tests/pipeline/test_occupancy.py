"""The bubble, from intervals of compute given by hand."""

import pytest
import torch

from pytest_dnnbench.rank.pipeline.occupancy import Occupancy


@pytest.fixture
def occupancy(monkeypatch: pytest.MonkeyPatch) -> Occupancy:
    """Stage 0 of two in 1F1B: minibatch, start and end of each interval; it idles from 3 to 4 and
    from 9 to 10."""
    watched = Occupancy(torch.device("cpu"))
    passes = [
        (0, 0, 1),
        (1, 1, 2),
        (0, 2, 3),
        (2, 4, 5),
        (1, 5, 7),
        (3, 7, 8),
        (2, 8, 9),
        (4, 10, 11),
        (3, 11, 12),
    ]
    for minibatch, start, end in passes:
        monkeypatch.setattr(watched._watch, "mark", lambda end=end: float(end))
        watched.add(minibatch, float(start))
    return watched


def test_idle_time_is_counted_between_completions(occupancy: Occupancy) -> None:
    # Minibatches 1 and 2: from the completion of 0, at 3, to that of 2, at 9.
    assert occupancy.bubble_fraction(1, 3) == pytest.approx(1 / 6)
    # The forward passes of minibatches 3 and 4, inside that time, are compute like any other.
    assert occupancy.bubble_fraction(1, 4) == pytest.approx(2 / 9)


def test_a_whole_run_begins_with_its_first_compute(occupancy: Occupancy) -> None:
    assert occupancy.bubble_fraction() == pytest.approx(2 / 12)
    assert occupancy.bubble_fraction(9) is None
    assert Occupancy(torch.device("cpu")).bubble_fraction() is None
