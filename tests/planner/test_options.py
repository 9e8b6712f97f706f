"""The options of a pipeline's case: on which numbers of ranks they make sense, and what is wrong on
any."""

from pathlib import Path

import pytest

from benchmarks.planner_graphs import chain
from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.options import stages_fit
from pytest_dnnbench.planner.predict import plan_for


def counts_that_fit(variant: str = "pipedream", **options: str | int | float | bool) -> list[int]:
    return [count for count in range(1, 7) if stages_fit(variant, count, options)]


def test_auto_fits_every_count_and_a_shape_those_that_it_fills() -> None:
    assert counts_that_fit() == counts_that_fit(stages="auto") == [1, 2, 3, 4, 5, 6]
    assert counts_that_fit(stages="2") == [2, 4, 6]
    assert counts_that_fit(stages="2-1") == [3]


def test_a_plan_fits_the_ranks_that_it_was_made_for(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(plan_for(chain(24), [3], [1e12]).to_json())
    assert counts_that_fit(plan=str(path)) == [3]
    path.write_text("[1]")
    with pytest.raises(PlanError, match="the file holds no plan"):
        stages_fit("pipedream", 3, {"plan": str(path)})
    path.write_text('{"schema": 7}')
    with pytest.raises(PlanError, match="plan schema is 7"):
        stages_fit("pipedream", 3, {"plan": str(path)})


@pytest.mark.parametrize(
    ("variant", "options", "message"),
    [
        ("pipedream", {"stages": "two"}, "stages 'two': write a number"),
        ("pipedream", {"stages": "2-0"}, "stages '2-0'"),
        ("pipedream", {"bandwidth": -1.0}, "--dnn-bandwidth is -1.0: give bytes per second"),
        ("pipedream", {"bandwidth": float("nan")}, "--dnn-bandwidth is nan"),
        ("pipedream-2bw", {"microbatches": -2}, "--dnn-microbatches is -2: give at least 1"),
        (
            "pipedream-2bw",
            {"stages": "3", "microbatches": 1},
            "needs at least 2 microbatches, not 1",
        ),
        ("pipedream-flush", {"stages": "2-1", "microbatches": 3}, "give a multiple of 2"),
        ("pipedream", {"plan": "nowhere.json"}, "plan nowhere.json cannot be read"),
    ],
)
def test_what_is_wrong_on_any_number_of_ranks_is_an_error(
    variant: str, options: dict[str, str | int | float | bool], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        [stages_fit(variant, count, options) for count in (1, 2, 3, 4)]


def test_stages_and_a_plan_cannot_both_be_given(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(plan_for(chain(24), [3], [1e12]).to_json())
    with pytest.raises(PlanError, match="both say what the stages are: give one"):
        stages_fit("pipedream", 3, {"plan": str(path), "stages": "3"})
