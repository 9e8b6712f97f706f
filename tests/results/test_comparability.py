"""Facts that may be compared across, by their names; recorded facts that are other than before."""

from typing import Any

import pytest

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.results.baselines.comparability import (
    check_across,
    elsewhere,
    recorded_of,
)
from pytest_dnnbench.results.records.schema import Environment, Record
from tests.results.synthetic import record

SIDES = [{"versions.torch": "2.13", "host": "a"}, {"plan.variant": "pipedream"}]


@pytest.mark.parametrize("name", ["host", "versions.torch", "versions", "plan"])
def test_a_fact_or_a_group_of_any_side_may_be_compared_across(name: str) -> None:
    check_across([name], SIDES)


def test_a_misspelt_fact_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UsageError, match=r"no session has a fact 'hots' .* did you mean host\?"):
        check_across(["host", "hots"], SIDES)


def test_an_unknown_fact_is_refused_with_all_names() -> None:
    every = "choose from host, plan, plan.variant, versions, versions.torch"
    with pytest.raises(UsageError, match=f"'zzz' to compare across: {every}"):
        check_across(["zzz"], SIDES)


def test_without_sessions_no_name_is_wrong() -> None:
    check_across(["zzz"], [])


def recorded(**facts: Any) -> Record:
    measured = record()
    measured.environment = Environment(must_match={}, recorded=facts)
    return measured


def test_recorded_facts_that_no_session_had_are_listed_by_name() -> None:
    stored = recorded_of(
        [recorded(python="3.11", hostname="a", kernel=None), recorded(python="3.12", hostname="a")]
    )
    assert stored == {"python": ("3.11", "3.12"), "hostname": ("a",)}, "null is no value"
    now = recorded(python="3.13", hostname="b", kernel="6.1")
    assert elsewhere(stored, now) == ["hostname: a -> b", "python: 3.11, 3.12 -> 3.13"]
    assert elsewhere(stored, recorded(python="3.12", hostname=None)) == []


def test_what_differs_from_session_to_session_anyway_is_not_listed() -> None:
    stored = recorded_of([recorded(load_1min=0.1, hostname="a")])
    assert elsewhere(stored, recorded(load_1min=2.0, hostname="a")) == []


@pytest.mark.parametrize(("length", "shown"), [(100, 100), (101, 100)])
def test_a_long_fact_is_cut_and_a_control_character_is_none_of_the_terminal(
    length: int, shown: int
) -> None:
    stored = recorded_of([recorded(hostname="a")])
    (line,) = elsewhere(stored, recorded(hostname="\x1b" + "b" * (length - 1)))
    text = line.partition(" -> ")[2]
    assert text == "?" + "b" * (length - 1) if length == shown else text.endswith("b...")
    assert len(text) == shown
