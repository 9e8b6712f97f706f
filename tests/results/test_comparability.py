"""Facts that may be compared across, by their names."""

import pytest

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.results.baselines.comparability import check_across

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
