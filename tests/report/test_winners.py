"""Who wins: clearly, not clearly, not at all; and what may stand beside what."""

import math
import random
import statistics
from typing import Any

import pytest

from pytest_dnnbench.report.runs import run_of
from pytest_dnnbench.report.spread import interval
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.report.winners import Contest, contests
from tests.report.records import benchmark, session

RATE = "throughput"


def study(*contents: dict[str, Any]) -> Study:
    return Study(run_of(content, f"{number}.json") for number, content in enumerate(contents))


def saved(*benchmarks: dict[str, Any], day: int = 1) -> dict[str, Any]:
    return {"datetime": f"2026-03-{day:02}", "benchmarks": list(benchmarks)}


def with_launches(framework: str, values: list[float], gpus: int = 2) -> dict[str, Any]:
    made = benchmark(framework, "resnet50", gpus)
    made["extra_info"]["dnnbench"]["metrics"][RATE] |= {
        "per_launch": values,
        "value": statistics.median(values),
    }
    return made


def only(found: list[Contest]) -> Contest:
    assert len(found) == 1
    return found[0]


def test_the_interval_of_a_median_holds_the_truth_19_times_out_of_20() -> None:
    chance = random.Random(1)
    inside = 0
    for _ in range(2000):
        found = interval([100 * math.exp(chance.gauss(0, 0.01)) for _ in range(5)], RATE)
        assert found is not None
        inside += found.low <= 100 <= found.high
    assert 0.93 < inside / 2000 < 0.99


def test_equal_cases_seldom_have_a_clear_winner_however_many_rivals_they_have() -> None:
    chance = random.Random(2)
    clear = 0
    for _ in range(400):
        made = [
            with_launches(name, [100 * math.exp(chance.gauss(0, 0.01)) for _ in range(3)])
            for name in "abcd"
        ]
        clear += only(contests(study(saved(*made)))).clear
    assert clear / 400 < 0.06


def test_a_faster_case_wins_by_the_ratio_of_the_medians() -> None:
    contest = only(
        contests(
            study(
                saved(
                    with_launches("ddp", [110, 111, 109]), with_launches("horovod", [100, 101, 99])
                )
            )
        )
    )
    assert (contest.first.framework, contest.clear) == ("ddp", True)
    assert contest.lead is not None
    assert contest.lead.middle == pytest.approx(1.1)
    assert 1 < contest.lead.low < 1.1 < contest.lead.high


def test_a_single_launch_decides_nothing() -> None:
    contest = only(
        contests(study(saved(with_launches("ddp", [200]), with_launches("horovod", [100]))))
    )
    assert not contest.clear
    assert contest.lead is None
    assert "two launches" in contest.why
    assert interval([100], RATE) is None


def test_a_case_that_has_no_rival_wins_nothing() -> None:
    contest = only(contests(study(saved(with_launches("ddp", [100, 101, 102])))))
    assert not contest.clear
    assert "nothing else" in contest.why


def test_cases_of_unlike_environments_are_not_compared() -> None:
    other = with_launches("horovod", [100, 101, 99])
    other["extra_info"]["dnnbench"]["environment"]["must_match"]["torch"] = "2.12.0"
    contest = only(contests(study(saved(with_launches("ddp", [200, 201, 202]), other))))
    assert not contest.clear
    assert contest.why == "environments differ (torch)"


def test_cases_of_different_sessions_are_compared_and_it_is_said() -> None:
    first, second = with_launches("ddp", [200, 201, 202]), with_launches("horovod", [100, 101, 99])
    contest = only(contests(study(saved(first), saved(second, day=2))))
    assert contest.clear
    assert "different sessions" in contest.why


def test_settings_part_the_groups_and_options_the_series() -> None:
    plain, large, half = (with_launches("horovod", [100, 101, 99]) for _ in range(3))
    large["extra_info"]["dnnbench"]["case"]["batch_size"] = 64
    half["extra_info"]["dnnbench"]["case"]["options"] = {"compression": "fp16", "op": "average"}
    plain["extra_info"]["dnnbench"]["case"]["options"] = {"compression": "none", "op": "average"}
    found = study(saved(plain, large, half))
    assert [group.label for group in found.groups] == [
        "resnet50, train, batch size 32",
        "resnet50, train, batch size 64",
    ]
    assert found.series == ["horovod", "horovod (compression=fp16)", "horovod (compression=none)"]


def test_under_strong_scaling_the_group_has_one_batch_for_all_counts() -> None:
    made = [with_launches("ddp", [100, 101, 99], gpus) for gpus in (1, 2, 4)]
    for one, share in zip(made, (32, 16, 8), strict=True):
        one["extra_info"]["dnnbench"]["case"] |= {"scaling": "strong", "batch_size": share}
    assert [group.counts for group in study(saved(*made)).groups] == [[1, 2, 4]]


def test_the_newest_result_of_a_case_counts_and_the_older_ones_are_its_history() -> None:
    found = study(session(day=12, slower="ddp"), session(day=11), session(day=10))
    assert [run.saved[8:10] for run in found.runs] == ["10", "11", "12"]
    assert len(found.latest) == 14
    assert {result.run for result in found.latest} == {2}
    assert {result.status for result in found.latest if result.framework == "ddp"} == {"regressed"}
    assert {len(results) for results in found.history.values()} == {3}
