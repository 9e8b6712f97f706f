"""Who wins: clearly, not clearly, not at all; and what may stand beside what."""

import math
import random
from typing import Any

import pytest

from pytest_dnnbench.case import Case
from pytest_dnnbench.report.runs import run_of
from pytest_dnnbench.report.spread import interval
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.report.winners import Contest, contests
from pytest_dnnbench.results.records.schema import Record
from tests.report.records import as_saved, record, saved, session

RATE = "throughput"


def study(*contents: dict[str, Any]) -> Study:
    return Study(run_of(content, f"{number}.json") for number, content in enumerate(contents))


def with_launches(framework: str, values: list[float], gpus: int = 2, **case: Any) -> Record:
    """A case of resnet50 with these throughputs; `case` replaces facts of it."""
    facts: dict[str, Any] = {"image_size": 224, "device": "cuda"}
    return record(Case(framework, "resnet50", gpus, "train", **facts | case), {RATE: values})


def sessions(*records_of_days: list[Record]) -> Study:
    """A study of one session a day."""
    days = enumerate(records_of_days, 1)
    return study(
        *(
            saved(*(as_saved(made, f"test[{made.trained_case.id}]") for made in records), day=day)
            for day, records in days
        )
    )


def only(outcomes: list[Contest]) -> Contest:
    assert len(outcomes) == 1
    return outcomes[0]


def only_contest(*records: Record) -> Contest:
    return only(contests(sessions(list(records))))


def test_the_interval_of_a_median_holds_the_truth_19_times_out_of_20() -> None:
    chance = random.Random(1)
    inside = 0
    for _ in range(2000):
        bounds = interval([100 * math.exp(chance.gauss(0, 0.01)) for _ in range(5)], RATE)
        assert bounds is not None
        inside += bounds.low <= 100 <= bounds.high
    assert 0.93 < inside / 2000 < 0.99


def test_equal_cases_seldom_have_a_clear_winner_however_many_rivals_they_have() -> None:
    chance = random.Random(2)
    clear = 0
    for _ in range(400):
        made = [
            with_launches(name, [100 * math.exp(chance.gauss(0, 0.01)) for _ in range(3)])
            for name in "abcd"
        ]
        clear += only_contest(*made).clear
    assert clear / 400 < 0.06


def test_a_faster_case_wins_by_the_ratio_of_the_medians() -> None:
    contest = only_contest(
        with_launches("ddp", [110, 111, 109]), with_launches("horovod", [100, 101, 99])
    )
    assert (contest.first.case.framework, contest.clear) == ("ddp", True)
    assert contest.lead is not None
    assert contest.lead.middle == pytest.approx(1.1)
    assert 1 < contest.lead.low < 1.1 < contest.lead.high


def test_a_single_launch_decides_nothing() -> None:
    contest = only_contest(with_launches("ddp", [200]), with_launches("horovod", [100]))
    assert not contest.clear
    assert contest.lead is None
    assert "two launches" in contest.why
    assert interval([100], RATE) is None


def test_a_case_that_has_no_rival_wins_nothing() -> None:
    contest = only_contest(with_launches("ddp", [100, 101, 102]))
    assert not contest.clear
    assert "nothing else" in contest.why


def test_cases_of_unlike_environments_are_not_compared() -> None:
    other = with_launches("horovod", [100, 101, 99])
    other.environment.must_match["torch"] = "2.12.0"
    contest = only_contest(with_launches("ddp", [200, 201, 202]), other)
    assert not contest.clear
    assert contest.why == "environments differ (torch)"


def test_cases_of_different_sessions_are_compared_and_it_is_said() -> None:
    first, second = with_launches("ddp", [200, 201, 202]), with_launches("horovod", [100, 101, 99])
    contest = only(contests(sessions([first], [second])))
    assert contest.clear
    assert "different sessions" in contest.why


def test_settings_part_the_groups_and_options_the_series() -> None:
    speeds: list[float] = [100, 101, 99]
    half = {"compression": "fp16", "op": "average"}
    parted = sessions(
        [
            with_launches("horovod", speeds, options={"compression": "none", "op": "average"}),
            with_launches("horovod", speeds, batch_size=64),
            with_launches("horovod", speeds, options=half),
        ]
    )
    assert [group.label for group in parted.groups] == [
        "resnet50, train, batch size 32",
        "resnet50, train, batch size 64",
    ]
    assert parted.series == [
        "horovod",
        "horovod (compression=fp16)",
        "horovod (compression=none)",
    ]


def test_under_strong_scaling_the_group_has_one_batch_for_all_counts() -> None:
    shares = {1: 32, 2: 16, 4: 8}
    made = [
        with_launches("ddp", [100, 101, 99], gpus, scaling="strong", batch_size=share)
        for gpus, share in shares.items()
    ]
    assert [group.counts for group in sessions(made).groups] == [[1, 2, 4]]


def test_the_newest_result_of_a_case_counts_and_the_older_ones_are_its_history() -> None:
    stored = study(session(day=12, slower="ddp"), session(day=11), session(day=10))
    assert [run.saved[8:10] for run in stored.runs] == ["10", "11", "12"]
    assert len(stored.latest) == 14
    assert {result.run for result in stored.latest} == {2}
    ddp = [result for result in stored.latest if result.case.framework == "ddp"]
    assert {result.status for result in ddp} == {"regressed"}
    assert {len(results) for results in stored.history.values()} == {3}
