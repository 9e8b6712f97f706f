"""The detector on simulated sessions: false alarms and power. `benchmarks/detector.py` is the same
at full size."""

import pytest

from benchmarks.detection import Setting, try_out
from benchmarks.simulated_sessions import World, quiet, shared, suite

SESSIONS = 100
"""Without any alarm among them a rate of 3% has a chance of a twentieth."""


@pytest.mark.parametrize(("stored", "launches"), [(1, 3), (5, 3), (20, 3), (1, None), (10, None)])
def test_at_most_one_session_in_a_hundred_has_a_false_alarm(
    stored: int, launches: int | None
) -> None:
    setting = Setting("suite", suite(), stored, launches, stored_launches=3)
    assert try_out(setting, SESSIONS, seed=stored).alarmed["ours"] == 0


@pytest.mark.parametrize("setting", [
    Setting("by itself", suite(), 5, 3, stored_launches=3, pooled=False),
    Setting("learnt before", suite(), 1, 3, stored_launches=3, calibration=10),
])  # fmt: skip
def test_noise_learnt_in_either_way_gives_no_more(setting: Setting) -> None:
    assert try_out(setting, SESSIONS, seed=1).alarmed["ours"] == 0


@pytest.mark.parametrize("stored", [5, 20])
def test_five_percent_are_found_under_one_percent_of_noise_with_the_launches_chosen(
    stored: int,
) -> None:
    tally = try_out(Setting("slowed", quiet(), stored, None, slowdown=0.05), 25, seed=stored)
    assert tally.called["ours"] >= 0.95 * tally.cases
    assert tally.launches < 6 * tally.cases


def test_the_first_comparison_finds_at_least_what_is_large() -> None:
    tally = try_out(Setting("slowed", quiet(), 1, 3, stored_launches=3, slowdown=0.35), 10, seed=0)
    assert tally.called["ours"] >= 0.95 * tally.cases


def test_other_rules_cry_wolf_on_the_same_samples() -> None:
    tally = try_out(Setting("suite", suite(), 5, 3, stored_launches=3), 20, seed=0, others=True)
    assert tally.alarmed["ours"] == 0
    assert min(tally.alarmed[rule] for rule in ("median:5%", "Mann-Whitney")) > 10


@pytest.mark.parametrize("stored", [1, 5])
def test_the_yardstick_of_a_machine_that_is_slow_for_a_session_prevents_false_alarms(
    stored: int,
) -> None:
    tally = try_out(Setting("slow days", shared(), stored, 3, stored_launches=3), SESSIONS, seed=0)
    assert tally.alarmed["ours"] <= 0.01 * SESSIONS
    assert tally.alarmed["no yardstick"] > 0.03 * SESSIONS


def test_a_machine_that_drifts_alone_is_no_regression() -> None:
    """Sessions that drift far, all cases together, beside launches that hardly differ."""
    drifting = World(
        quiet(0.005).launch_sd, session_share=0.0, walk_sd=0.02, slope_sd=0.0, odd_cases=False
    )
    tally = try_out(Setting("drift", drifting, 20, 3, stored_launches=3), 100, seed=0)
    assert tally.alarmed["ours"] <= 3
