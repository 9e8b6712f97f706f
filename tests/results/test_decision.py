"""Calls on samples written by hand: each status, either direction, and what is refused."""

import dataclasses
import json
import math

import pytest

from pytest_dnnbench.errors import DataError, UsageError
from pytest_dnnbench.metrics import Better
from pytest_dnnbench.results.statistics.decision import (
    Decision,
    confirm,
    confirm_bound,
    decide,
    decide_bound,
)
from pytest_dnnbench.results.statistics.noise import EXACT, Noise

# 1% between launches, 0.5% between sessions, well known.
NOISE = Noise(0.01, 100, ((0.5, 1.0),), "learnt", 20, 60)
STEADY = (0.99, 1.0, 1.01)
ALPHA = 1e-4


def session(level: float, spread: tuple[float, ...] = STEADY) -> list[float]:
    return [level * share for share in spread]


def call(
    now: list[float], better: Better = "higher", noise: Noise | None = NOISE, limit: float = 0.03
) -> Decision:
    return decide(now, [session(100)] * 5, better=better, limit=limit, alpha=ALPHA, noise=noise)


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_each_status_in_either_direction(better: Better) -> None:
    def level(worse: float) -> list[float]:
        return session(100 * (1 - worse if better == "higher" else 1 + worse))

    assert call(level(0.10), better).status == "regressed"
    assert call(level(-0.10), better).status == "improved"
    assert call(level(0.0), better).status == "ok"
    noisy = call(level(0.025), better)
    assert (noisy.status, noisy.suspect) == ("noisy", False)
    assert call(level(0.035), better).suspect


def test_a_decision_says_by_how_much_and_is_plain_data() -> None:
    decision = call(session(90))
    assert (decision.baseline, decision.now) == (100, 90)
    assert decision.change == pytest.approx(-0.1)
    assert decision.interval[0] < -0.1 < decision.interval[1] < 0
    assert decision.limit is not None
    assert decision.limit < -0.03  # three launches support no 3% at this false-alarm rate
    assert decision.widened
    assert decision.confidence > 0.9999
    assert 0.04 < decision.minimum_detectable < 0.08
    assert json.loads(json.dumps(dataclasses.asdict(decision)))["status"] == "regressed"


def test_the_users_limit_holds_where_the_noise_supports_it() -> None:
    decision = call(session(85), limit=0.2)
    assert (decision.status, decision.widened) == ("ok", False)
    assert decision.limit == pytest.approx(-0.2)
    assert call(session(75), limit=0.2).status == "regressed"


def test_noise_without_evidence_names_the_launches_that_would_settle_it() -> None:
    decision = call(session(96.6))
    assert (decision.status, decision.suspect) == ("noisy", True)
    assert decision.launches_needed is not None
    assert decision.launches_needed > 3
    more = session(96.6, STEADY * math.ceil(decision.launches_needed / 3))
    assert call(more).status == "regressed"


def test_no_number_of_launches_settles_what_sessions_differ_by() -> None:
    assert call(session(98)).launches_needed is None


def test_equal_memory_is_ok_and_two_percent_more_is_not() -> None:
    def memory(now: list[float]) -> Decision:
        return decide(
            now, [[2.0**30] * len(now)], better="lower", limit=0.01, alpha=ALPHA, prior=EXACT
        )

    for launches in (1, 3):
        same, more = memory([2.0**30] * launches), memory([2.0**30 * 1.02] * launches)
        assert (same.status, same.now, same.change) == ("ok", 2.0**30, 0.0)
        assert more.status == "regressed"
        assert more.limit == pytest.approx(0.01)
        assert memory([2.0**30 * 0.9] * launches).status == "improved"


def test_one_launch_against_one_is_no_evidence_of_a_time() -> None:
    def once(now: float) -> Decision:
        return decide([now], [[100.0]], better="higher", limit=0.03, alpha=ALPHA)

    assert once(100.0).status == "noisy"
    assert once(80.0).status == "noisy"
    assert once(100.0).minimum_detectable > 0.5


def test_a_session_noisier_than_was_learnt_is_not_called() -> None:
    assert call([94.0, 94.1, 93.9]).status == "regressed"
    assert call([94.0, 115.0, 80.0]).status == "noisy"


def test_a_suspicion_that_fresh_launches_do_not_repeat_is_noise() -> None:
    def twice(first: list[float], again: list[float]) -> Decision:
        return confirm(
            first, again, [session(100)] * 5, better="higher", limit=0.03, alpha=ALPHA, noise=NOISE
        )

    assert twice(session(94), session(94)).status == "regressed"
    assert twice(session(94), session(100)).status != "regressed"
    unrepeated = twice(session(70), session(98))
    assert (unrepeated.status, unrepeated.suspect) == ("noisy", False)


def test_more_launches_confirm_what_a_few_only_suspect() -> None:
    assert call(session(96.6)).status == "noisy"
    history = [session(100)] * 5
    sure = confirm(
        session(96.6), session(96.6), history, better="higher", limit=0.03, alpha=ALPHA, noise=NOISE
    )
    assert sure.status == "regressed"


def test_an_absolute_limit_is_held_against_the_interval() -> None:
    def bound(now: list[float], better: Better = "higher") -> Decision:
        return decide_bound(now, better=better, bound=3000.0, alpha=ALPHA, noise=NOISE)

    assert bound(session(3300)).status == "ok"
    assert bound(session(3010)).status == "noisy"
    broken = bound(session(2700))
    assert (broken.status, broken.limit, broken.limit_absolute) == ("regressed", None, 3000.0)
    assert bound(session(2700), "lower").status == "ok"
    assert bound(session(3300), "lower").status == "regressed"
    twice = confirm_bound(
        session(2700), session(3100), better="higher", bound=3000.0, alpha=ALPHA, noise=NOISE
    )
    assert twice.status == "noisy"


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_values_without_a_relative_change_are_refused(bad: float) -> None:
    with pytest.raises(DataError, match="launch 2 has the value"):
        call([100.0, bad])
    with pytest.raises(DataError, match="launch 1 has the value"):
        decide([100.0], [[100.0], [bad]], better="higher", limit=0.03, alpha=ALPHA)
    with pytest.raises(DataError):
        decide_bound([100.0], better="higher", bound=bad, alpha=ALPHA)


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="save a baseline first"):
        decide([1.0], [], better="higher", limit=0.03, alpha=ALPHA)
    with pytest.raises(DataError, match="without a launch"):
        call([])
    with pytest.raises(UsageError, match="'higher' or 'lower'"):
        call([1.0], better="more")  # type: ignore[arg-type] # what is to be refused
    with pytest.raises(UsageError, match="5% is"):
        call([1.0], limit=5)
