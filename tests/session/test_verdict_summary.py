"""The summary's remarks on cases: the worst first, and what holds of many cases said once."""

from types import SimpleNamespace
from typing import Any, cast

import msgspec

from pytest_dnnbench.case import Case
from pytest_dnnbench.results.records.schema import Record
from pytest_dnnbench.results.records.verdict import MetricVerdict, Verdict
from pytest_dnnbench.session.verdict_summary import verdict_lines
from tests.report import records

WITHOUT_BASELINE = cast("Any", SimpleNamespace(current=None))


def noisy(throughput: float) -> Record:
    """A case whose throughput and step time changed by so much, which noise may explain."""

    def entry(change: float) -> MetricVerdict:
        return MetricVerdict(
            status="noisy",
            baseline=100.0,
            now=100 * (1 + change),
            change=change,
            interval=(-0.2, 0.2),
            limit=-0.03,
            limit_absolute=None,
            widened=False,
            source="default",
            confidence=0.5,
            minimum_detectable=0.091,
            launches_needed=None,
        )

    metrics = {"throughput": entry(throughput), "step_time_s": entry(-throughput)}
    return records.record(
        Case("ddp", "tiny", 2, "train"),
        {"throughput": [100.0], "step_time_s": [0.1]},
        verdict=Verdict(status="noisy", metrics=metrics),
    )


def incomparable() -> Record:
    """A case whose baseline ran with another torch."""
    return records.record(
        Case("ddp", "tiny", 2, "train"),
        {"throughput": [100.0]},
        verdict=Verdict(status="incomparable", reason="torch: 2.12.0 -> 2.13.0", differs=["torch"]),
    )


def test_the_case_that_lost_most_comes_first_with_all_its_metrics_in_one_line() -> None:
    """The twelve that were shown of many were the first ones, twice each."""
    cases = {"a": noisy(0.04), "b": noisy(-0.01), "c": noisy(-0.05), "d": noisy(0.0)}
    assert verdict_lines(cases, WITHOUT_BASELINE, []) == [
        f"noisy: {name}: throughput {change}, step_time_s {other}: no number of launches up to 100"
        " would settle it; more stored sessions may, or --dnn-against"
        for name, change, other in (
            ("c", "-5.0%", "+5.0%"),
            ("b", "-1.0%", "+1.0%"),
            ("d", "+0.0%", "-0.0%"),
            ("a", "+4.0%", "-4.0%"),
        )
    ]


def test_a_limit_that_is_neither_kept_nor_broken_for_certain_is_called_noisy() -> None:
    """It stood under "no-baseline", as if that were the matter."""
    made = noisy(0.01)
    bound = msgspec.structs.replace(
        made.verdict.metrics["throughput"], limit=None, limit_absolute=99.0, launches_needed=7
    )
    made.verdict = Verdict(metrics={"throughput": bound})
    assert verdict_lines({"a": made}, WITHOUT_BASELINE, []) == [
        "limit noisy: a: throughput +1.0% from its limit: --dnn-launches 7 would settle it"
    ]
    kept = msgspec.structs.replace(bound, status="ok")
    made.verdict = Verdict(metrics={"throughput": kept})
    assert verdict_lines({"a": made}, WITHOUT_BASELINE, []) == [
        "limit held: a: throughput: 101 img/s, required: at least 99 img/s, kept by 1.0%"
    ]


def test_what_holds_of_many_cases_is_said_once_with_what_to_do() -> None:
    cases = {name: incomparable() for name in "abcdef"}
    assert verdict_lines(cases, WITHOUT_BASELINE, []) == [
        "NOT COMPARABLE: a, b, c and 3 more: not comparable with the baseline:"
        " torch: 2.12.0 -> 2.13.0",
        "NOT COMPARABLE: --dnn-compare-across torch compares all the same; once this session is"
        " saved, later ones are compared with it",
    ]


def compared(*names: str) -> dict[str, Record]:
    """Cases that the baseline lacks."""
    record = records.record(Case("ddp", "tiny", 2, "train"), {"throughput": [100.0]})
    return dict.fromkeys(names, record)


STORED = cast(
    "Any",
    SimpleNamespace(
        current=SimpleNamespace(names=lambda: ["a"], name="0001_x.json", passed_over=[]),
        left_out=list,
    ),
)


def test_a_test_that_seems_to_have_a_new_name_is_named_with_the_command() -> None:
    now = compared("t.py::test_loop[ddp-1]", "t.py::test_loop[ddp-2]")
    lines = verdict_lines(now, STORED, ["t.py::test_train[ddp-2]", "t.py::test_train[ddp-1]"])
    assert [line for line in lines if line.startswith("RENAMED?")] == [
        "RENAMED?: if t.py::test_loop was t.py::test_train, `dnnbench rename t.py::test_train"
        " t.py::test_loop STORAGE` keeps its history"
    ]


def test_no_new_name_is_guessed_among_several_tests_or_other_parameters() -> None:
    lacking = ["t.py::test_train[ddp-1]", "t.py::test_validate[ddp-1]"]
    for now in (
        compared("t.py::test_loop[ddp-1]", "t.py::test_check[ddp-1]"),
        compared("t.py::test_loop[ddp-2]"),
    ):
        assert "RENAMED?" not in "".join(verdict_lines(now, STORED, lacking))
