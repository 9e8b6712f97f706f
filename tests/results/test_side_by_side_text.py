"""The comparison of two environments in words."""

from typing import Any

import msgspec
import pytest

from pytest_dnnbench.results.records.profile_entry import Cause, WhyEntry
from pytest_dnnbench.results.records.schema import Record
from pytest_dnnbench.results.records.side_by_side import (
    OtherSide,
    SideEntry,
    SideMetric,
    SideStatus,
)
from pytest_dnnbench.results.verdicts.side_by_side_text import (
    about_lines,
    answers,
    called_lines,
    metric_sentence,
    reason,
    rows_of,
    side_failure_message,
    summary_lines,
)
from tests.report.records import measured

OLD = SideEntry(name="torch 2.9.1", python="python", differences=["torch: 2.13.0 -> 2.9.1"])


def metric(
    status: SideStatus, change: float, half: float = 0.007, detectable: float = 0.012, **more: Any
) -> SideMetric:
    return SideMetric(
        status=status,
        a=1000.0,
        b=1000.0 * (1 + change),
        change=change,
        interval=(change - half, change + half),
        detectable=detectable,
        pairs=12,
        **more,
    )


def other(side: SideEntry = OLD, **compared: SideMetric) -> OtherSide:
    return OtherSide(side=side, compared=compared)


def test_one_case_that_is_slower_among_others() -> None:
    compared = [metric("worse", -0.031)] + [metric("no evidence", 0.001)] * 2
    assert metric_sentence("throughput", compared, "torch 2.9.1") == (
        "B (torch 2.9.1) is 3.1% slower than A, 95% interval 2.4 to 3.8%, in 1 of 3 cases;"
        " no evidence in the rest, where a change of 1.2% would have been found;"
        " over all 3 cases B's throughput is 0.98% lower (geometric mean),"
        " 95% interval -1.4% to -0.6%"
    )


def test_one_case_alone() -> None:
    assert metric_sentence("throughput", [metric("better", 0.031)], "new") == (
        "B (new) is 3.1% faster than A, 95% interval 2.4 to 3.8%"
    )


def test_faster_in_some_and_slower_in_others() -> None:
    compared = [metric("worse", -0.05), metric("worse", -0.05), metric("better", 0.2)]
    text = metric_sentence("throughput", compared, "new")
    assert text.startswith(
        "B (new) is 5% slower than A (mean), 95% interval 4.5 to 5.5%, in 2 of 3 cases"
        " and is 20% faster than A, 95% interval 19.3 to 21%, in 1 of 3 cases; over all"
    )


def test_no_evidence_says_what_would_have_been_found() -> None:
    assert metric_sentence("throughput", [metric("no evidence", 0.002)], "new") == (
        "no evidence that B (new) differs from A in throughput: a change of 1.2% would have been"
        " found"
    )
    compared = [metric("no evidence", 0.002, detectable=size) for size in (0.012, 0.14)]
    assert metric_sentence("throughput", compared, "new").startswith(
        "no evidence that B (new) differs from A in throughput in any of 2 cases:"
        " a change of 1.2% to 14%, by case, would have been found; over all 2 cases"
    )


def test_memory_is_more_or_less() -> None:
    assert "has 5% more memory resident, peak than A" in metric_sentence(
        "resident_peak_bytes", [metric("worse", 0.05)], "new"
    )


def test_other_metrics_are_told_only_where_a_difference_was_called() -> None:
    others = {
        "one": other(throughput=metric("no evidence", 0.0), step_time_s=metric("no evidence", 0.0)),
        "two": other(
            throughput=metric("no evidence", 0.0), resident_peak_bytes=metric("better", -0.2)
        ),
    }
    assert [text.split(" ", 1)[0] for text in answers(others)] == ["no", "B"]


def test_what_differs_is_listed_and_a_control_is_called_one() -> None:
    assert about_lines(OLD, {"case": other()}) == [
        "side A is this environment, side B torch 2.9.1; what differs, A -> B:"
        " torch: 2.13.0 -> 2.9.1"
    ]
    same = SideEntry(name="same", python="python")
    assert about_lines(same, {"case": other(same)}) == [
        "side A is this environment, side B same; both sides are the same: nothing differs, so that"
        " this is a control"
    ]


def with_side(side: OtherSide) -> Record:
    made = measured("ddp", "resnet18", 2)
    made.against = side
    return made


def test_the_summary_has_a_row_for_each_case_and_for_each_call() -> None:
    records = {
        "slow": with_side(other(throughput=metric("worse", -0.031))),
        "same": with_side(
            other(throughput=metric("no evidence", 0.0), step_time_s=metric("no evidence", 0.0))
        ),
        "gone": with_side(OtherSide(side=OLD, failure="RankRaised: no\nat line 3")),
    }
    lines = summary_lines(records)
    assert [line for line in lines if line[0].startswith("side B: ")] == [
        (
            "side B: slow: throughput -3.10%, 95% interval -3.80% to -2.40%: worse (12 pairs)",
            "yellow",
        ),
        ("side B: gone: FAILED: RankRaised: no", "red"),
        (
            "side B: same: throughput +0.00%, 95% interval -0.70% to +0.70%: no evidence (12 pairs,"
            " a change of 1.2% would have been found)",
            "",
        ),
    ]


def test_a_session_of_one_environment_has_nothing_to_say() -> None:
    assert summary_lines({"case": measured("ddp", "resnet18", 2)}) == []


def test_a_broken_limit_fails_with_the_figures_of_both_sides() -> None:
    broken = metric("worse", -0.031, limit=-0.02, broken=True)
    message = side_failure_message(with_side(other(throughput=broken)))
    assert message is not None
    lines = message.splitlines()
    assert lines[0].startswith("side B (torch 2.9.1) is worse than --dnn-against-limits allows: ")
    assert lines[1] == "  throughput: A 1,000 img/s, B 969 img/s, -3.10%"
    assert lines[2] == "    95% interval -3.80% to -2.40%, 12 pairs, limit -2.0% BROKEN"
    assert lines[3] == "  what differs, A -> B: torch: 2.13.0 -> 2.9.1"
    within = metric("worse", -0.031, limit=-0.05)
    assert side_failure_message(with_side(other(throughput=within))) is None
    assert side_failure_message(measured("ddp", "resnet18", 2)) is None


WHY = WhyEntry(
    rank=1,
    baseline_s=0.0214,
    now_s=0.0287,
    causes=[
        Cause(
            part="compute",
            name="aten::mm",
            baseline_s=0.0091,
            now_s=0.0157,
            baseline_calls=2.0,
            now_calls=4.0,
            share=0.9,
        )
    ],
)


def test_why_the_slower_side_is_slower_stands_in_the_failure_and_in_the_summary() -> None:
    broken = metric("worse", -0.031, limit=-0.02, broken=True)
    record = with_side(OtherSide(side=OLD, compared={"throughput": broken}, why=WHY))
    message = side_failure_message(record)
    assert message is not None
    lines = [
        "why: a profiled step of rank 1 takes 7.3 ms more on side B (21.4 ms to 28.7 ms)",
        "  compute in aten::mm: 6.6 ms more (9.1 ms to 15.7 ms, 2 to 4 calls), 90% of the"
        " difference",
    ]
    assert message.splitlines()[-2:] == [f"  {line}" for line in lines]
    summary = [text for text, _ in summary_lines({"slow": record})]
    assert summary[-2:] == [f"slow: {lines[0]}", lines[1]]
    many = {f"case {number}": record for number in range(9)}
    assert summary_lines(many)[-1][0] == "why: 5 more cases are explained in the record"


def test_a_side_b_that_is_faster_makes_side_a_the_slower_one() -> None:
    other = OtherSide(side=OLD, compared={"throughput": metric("better", 0.031)}, why=WHY)
    assert reason(other)[0].startswith("why: a profiled step of rank 1 takes 7.3 ms more on side A")
    assert called_lines(with_side(other))[0].startswith("side B (torch 2.9.1): throughput +3.10%")


@pytest.mark.parametrize(
    ("throughput", "step_time", "slower"),
    [
        (metric("worse", -0.1), metric("no evidence", 0.0), "B"),
        (metric("no evidence", 0.0), metric("worse", 0.1), "B"),
        (metric("no evidence", 0.0), metric("better", -0.1), "A"),
        (metric("better", 0.1), metric("worse", 0.1), "A"),
        (metric("no evidence", 0.0), metric("no evidence", 0.0), None),
    ],
)
def test_which_side_is_slower(
    throughput: SideMetric, step_time: SideMetric, slower: str | None
) -> None:
    memory = metric("worse", 0.5)
    side = other(resident_peak_bytes=memory, throughput=throughput, step_time_s=step_time)
    assert side.slower == slower
    assert reason(side) == []


def test_a_metric_that_could_not_be_compared_is_named_with_the_reason() -> None:
    gone = {"step_time_s": "a launch of side B has 0, of which there is no ratio"}
    side = OtherSide(side=OLD, compared={"throughput": metric("no evidence", 0.0)}, uncompared=gone)
    record = with_side(side)
    assert [row.status for row in rows_of("case", record)] == ["no evidence", "not compared"]
    assert (
        f"side B: case: step_time_s NOT COMPARED: {gone['step_time_s']}",
        "yellow",
    ) in summary_lines({"case": record})
    assert side_failure_message(record) is None


def test_a_record_with_two_sides_comes_back_from_json_as_it_was() -> None:
    record = with_side(
        OtherSide(
            side=OLD,
            step_time_s=[[0.1, 0.2]],
            per_launch={"throughput": [10.0]},
            disturbed=[None],
            b_first=[True],
            looks=[8],
            compared={"throughput": metric("worse", -0.031)},
            must_match={"torch": "2.9.1"},
        )
    )
    back = msgspec.json.decode(msgspec.json.encode(record), type=Record)
    assert back.against == record.against


def test_rows_have_the_units_of_the_record() -> None:
    row = rows_of("case", with_side(other(allocated_peak_bytes=metric("worse", -0.031))))[0]
    assert (row.a, row.b, row.change) == ("1,000 B", "969 B", "-3.10%")
