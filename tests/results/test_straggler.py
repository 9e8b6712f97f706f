"""The slow rank is named, and nobody where it cannot be told: on own work written by hand."""

import msgspec
import pytest

from pytest_dnnbench.results.records.schema import Record
from pytest_dnnbench.results.verdicts.straggler import (
    LaunchTimes,
    Straggler,
    straggler,
    straggler_of,
)
from pytest_dnnbench.results.verdicts.text import failure_message, slow_rank
from tests.results.synthetic import disturbed, judged, on_launches, record

STEP_S = 0.1


def launch(*ranks: float, step_time_s: float = STEP_S, width: float = 0.02) -> LaunchTimes:
    """Own work of each rank; its quartiles lie `width` of it apart from the median."""
    return LaunchTimes(
        step_time_s, [[work * (1 - width), work, work * (1 + width)] for work in ranks]
    )


def test_the_rank_that_is_slower_in_every_launch_is_named() -> None:
    slow = straggler([launch(0.020, 0.060), launch(0.021, 0.062), launch(0.022, 0.061)])
    assert slow == Straggler(rank=1, own_work_s=0.061, others_s=0.021)


def test_among_many_ranks_the_others_are_told_by_their_median() -> None:
    slow = straggler([launch(0.020, 0.021, 0.050, 0.022, 0.030)] * 3)
    assert slow == Straggler(rank=2, own_work_s=0.050, others_s=0.0215)


def test_alike_ranks_are_not_accused() -> None:
    assert straggler([launch(0.020, 0.0205), launch(0.020, 0.0203), launch(0.020, 0.0207)]) is None


@pytest.mark.parametrize("launches", [0, 1, 2])
def test_too_few_launches_tell_nothing(launches: int) -> None:
    assert straggler([launch(0.020, 0.060)] * launches) is None


def test_another_rank_in_one_of_the_launches_is_chance() -> None:
    assert straggler([launch(0.020, 0.060)] * 3 + [launch(0.060, 0.020)]) is None


def test_a_disturbance_has_another_size_each_time() -> None:
    assert straggler([launch(0.020, 0.030), launch(0.020, 0.030), launch(0.020, 0.060)]) is None


def test_steps_that_vary_widely_tell_nothing() -> None:
    assert straggler([launch(0.020, 0.030, width=0.3)] * 3) is None
    assert straggler([launch(0.020, 0.030, width=0.1)] * 3) is not None


def test_two_slow_ranks_are_not_one() -> None:
    assert (
        straggler(
            [launch(0.020, 0.060, 0.060), launch(0.021, 0.061, 0.060), launch(0.020, 0.059, 0.060)]
        )
        is None
    )


def test_what_hardly_lengthens_the_step_is_left_alone() -> None:
    assert straggler([launch(0.0040, 0.0055, step_time_s=0.1)] * 3) is None
    assert straggler([launch(0.0040, 0.0055, step_time_s=0.05)] * 3) is not None


def test_steps_so_short_that_a_wake_up_counts_are_left_alone() -> None:
    assert straggler([launch(0.0002, 0.0006, step_time_s=0.001)] * 3) is None


def test_a_slow_rank_of_a_record_is_told_in_words() -> None:
    assert slow_rank(_recorded()) == (
        "rank 1 is the slow one: its own part of a step takes 61 ms, the others' 23 ms"
    )


def test_a_case_that_fails_names_its_slow_rank() -> None:
    message = failure_message(judged(_recorded(), "regressed"))
    assert message.splitlines()[1].startswith("  rank 1 is the slow one")
    assert "slow one" not in failure_message(judged(record(), "regressed"))


def test_disturbed_launches_are_no_evidence() -> None:
    made = _recorded()
    assert straggler_of(made) is not None
    assert straggler_of(disturbed(made, "other processes used 1.2 of 2 cores", 0)) is None


def test_more_ranks_than_cores_are_no_evidence() -> None:
    made = _recorded()
    made.run = msgspec.structs.replace(made.run, oversubscribed=True)
    assert straggler_of(made) is None


def test_a_record_without_own_work_blames_nobody() -> None:
    assert straggler_of(record()) is None


def _recorded() -> Record:
    own_work_s = [[0.022, 0.023, 0.024], [0.060, 0.061, 0.062]]
    return on_launches(record(), step_time_s=[0.085] * 4, own_work_s=own_work_s)
