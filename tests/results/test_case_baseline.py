"""What a case is compared with: which sessions of a metric count, and which are its anchor."""

from dataclasses import replace
from typing import Any

import pytest

from pytest_dnnbench.results.baselines.case_baseline import (
    CaseBaseline,
    Earlier,
    Incomparable,
    NoBaseline,
    Sessions,
)
from pytest_dnnbench.results.records.verdict import Status
from pytest_dnnbench.results.statistics.anchor import FEWEST, Anchor
from pytest_dnnbench.results.statistics.noise import prior_of

METRIC = "throughput"
LATEST: Sessions = [[100.0 + number] * 3 for number in range(FEWEST)]
FIRST: Sessions = [[200.0 + number] * 3 for number in range(5)]


def baseline(sessions: Sessions, **fields: Any) -> CaseBaseline:
    return CaseBaseline("b.json", None, len(sessions), {METRIC: sessions}, **fields)


def test_a_metric_is_named_once_though_some_of_its_sessions_were_disturbed() -> None:
    case = baseline(LATEST, disturbed=("step_time_s", METRIC))
    assert case.metrics == (METRIC, "step_time_s")


def test_a_session_with_a_value_that_has_no_logarithm_is_not_compared() -> None:
    sessions = [[1.0, 2.0], [0.0, 2.0], [-1.0, 2.0], []]
    assert baseline(sessions).sessions_of(METRIC) == [[1.0, 2.0], []]
    assert baseline(sessions).sessions_of("step_time_s") == []


def test_the_first_sessions_that_are_not_kept_any_more_are_the_anchor() -> None:
    """Of 20 sessions before the latest, the first five: their middle one is two from the first."""
    case = baseline(LATEST, earlier={METRIC: Earlier(FIRST, 20)})
    assert case.anchor_of(METRIC) == Anchor(FIRST, LATEST, 20 + len(LATEST) - 2)
    three = baseline(LATEST, earlier={METRIC: Earlier(FIRST[:3], 20)})
    assert three.anchor_of(METRIC) == Anchor(FIRST[:3], LATEST, 20 + len(LATEST) - 1)


def test_few_sessions_that_are_not_kept_any_more_are_the_anchor_with_those_that_follow() -> None:
    """The eleventh session of a golden file drops one, and that one alone was the anchor."""
    golden = baseline(LATEST, earlier={METRIC: Earlier(FIRST[:1], 1)})
    assert golden.anchor_of(METRIC) == Anchor(
        [*FIRST[:1], *LATEST[:4]], LATEST, 1 + len(LATEST) - 2
    )
    golden = baseline(LATEST, earlier={METRIC: Earlier(FIRST, 5)})
    assert golden.anchor_of(METRIC) == Anchor(FIRST, LATEST, 5 + len(LATEST) - 2)


def test_without_them_the_first_of_the_history_are() -> None:
    assert baseline(LATEST).anchor_of(METRIC) == Anchor(LATEST[:5], LATEST, len(LATEST) - 2)


@pytest.mark.parametrize("first", [[[0.0, 1.0, 2.0], *FIRST[1:]], [*FIRST[:4], [2.0, -1.0, 3.0]]])
def test_first_sessions_of_which_a_value_has_no_logarithm_are_no_anchor(first: Sessions) -> None:
    assert baseline(LATEST, earlier={METRIC: Earlier(first, 20)}).anchor_of(METRIC) is None
    small = [[0.5] * 3] * 5
    assert baseline(LATEST, earlier={METRIC: Earlier(small, 20)}).anchor_of(METRIC) is not None


def test_too_few_latest_sessions_have_no_anchor_but_the_users() -> None:
    few = baseline(LATEST[1:], earlier={METRIC: Earlier(FIRST, 20)})
    assert few.anchor_of(METRIC) is None
    anchored = few.anchored_at(baseline(FIRST), "first")
    anchor = anchored.anchor_of(METRIC)
    assert anchor is not None
    assert (anchor.named, anchor.first, anchor.latest) == ("first", FIRST, LATEST[1:])


@pytest.mark.parametrize(
    ("missing", "status"),
    [(NoBaseline(), "no-baseline"), (Incomparable("b.json", None, []), "incomparable")],
)
def test_without_sessions_a_case_regresses_by_an_absolute_limit_alone(
    missing: NoBaseline | Incomparable, status: Status
) -> None:
    assert missing.status("regressed") == "regressed"
    assert missing.status("ok") == status
    assert missing.against is None or missing.against.sessions == 0


def test_what_other_cases_say_about_the_noise_comes_before_what_is_assumed() -> None:
    learnt = replace(prior_of(METRIC), launch_sd=0.5)
    assert baseline(LATEST, priors={METRIC: learnt}).prior_of(METRIC) is learnt
    assert baseline(LATEST).prior_of(METRIC) == prior_of(METRIC)
