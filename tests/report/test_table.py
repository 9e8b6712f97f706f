"""The terminal's table: every row in its group, nothing wider than the terminal, whatever the
records hold."""

import itertools
import re
import sys
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from pytest_dnnbench.case import Case
from pytest_dnnbench.report.rows import columns, sections
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.report.table import Line, study_of, table_lines
from pytest_dnnbench.report.text import cut_middle, pad, width_of
from pytest_dnnbench.report.verdicts import judged_lines, verdict_text
from pytest_dnnbench.results.records.schema import Record
from pytest_dnnbench.results.records.verdict import Verdict
from tests.report import records
from tests.report.records import metric_verdict, plan_entry, verdict

MIB = 2.0**20
HEADS = ["framework", "plan", "GPUs", "img/s", "±", "speed-up", "eff.", "allocated", "cached"]


def record(
    framework: str,
    gpus: int,
    throughputs: list[float],
    *,
    case: dict[str, Any] | None = None,
    metrics: dict[str, list[float]] | None = None,
    **facts: Any,
) -> Record:
    """A record of resnet50 without verdict; `case` replaces facts of its case, `metrics` adds."""
    measured = replace(Case(framework, "resnet50", gpus, "train"), **(case or {}))
    return records.record(measured, {"throughput": throughputs, **(metrics or {})}, **facts)


def study(*made: Record) -> Study:
    return study_of({f"test_{number}": each for number, each in enumerate(made)})


def texts(*made: Record, width: int = 80) -> list[str]:
    return [line.text for line in table_lines(study(*made), width)]


def cells(lines: list[str], first: str) -> list[str]:
    return next(line[2:].split() for line in lines if line[2:].startswith(first))


def full(framework: str = "ddp", gpus: int = 4, **facts: Any) -> Record:
    """A record with every column."""
    metrics = {
        "speedup": [3.5],
        "scaling_efficiency": [0.875],
        "allocated_peak_bytes": [1000 * MIB],
        "cached_peak_bytes": [12000 * MIB],
    }
    about = {"plan": plan_entry("2-1"), "verdict": verdict("regressed", throughput=-0.051)}
    return record(framework, gpus, [1400.0, 1401.0, 1402.0], metrics=metrics, **about | facts)


def test_a_row_holds_all_that_was_measured() -> None:
    lines = texts(full(), width=120)
    assert lines[0] == "resnet50, train"
    assert lines[1].split() == [*HEADS, "verdict"]
    row = cells(lines, "ddp")
    assert row[:4] == ["ddp", "2-1", "4", "1,401.0"]
    assert row[4].endswith("%")
    assert "± half of the 95% interval of img/s over launches" in lines
    assert row[5:] == ["3.50x", "88%", "1,000", "12,000", "regressed", "-5.1%"]


def test_a_case_on_several_nodes_shows_its_efficiency_within_and_across_them() -> None:
    metrics = {
        "scaling_efficiency": [0.5],
        "efficiency_within_node": [0.8],
        "efficiency_across_nodes": [0.625],
    }
    both = record("ddp", 8, [64.0], case={"nodes": 2}, metrics=metrics)
    lines = texts(record("single", 1, [16.0]), both, width=120)
    assert lines[1].split() == ["framework", "GPUs", "nodes", "img/s", "eff.", "node", "across"]
    assert cells(lines, "single")[:4] == ["single", "1", "1", "16"]
    assert cells(lines, "ddp")[:7] == ["ddp", "8", "2", "64", "50%", "80%", "62%"]


@pytest.mark.parametrize("width", [1, 10, 20, 40, 60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    long = full(
        "a_framework_with_a_name_that_goes_on_and_on", case={"model": "some.package:factory" * 9}
    )
    lines = texts(long, full(), full("漢字" * 30, 2), width=width)
    assert max(map(width_of, lines)) <= width


def test_eighty_columns_hold_memory_plan_and_verdict() -> None:
    lines = texts(full("pipedream"))
    assert lines[1].split() == [head for head in [*HEADS, "verdict"] if head != "±"]


def test_columns_of_least_worth_go_first_and_throughput_stays() -> None:
    heads = {width: texts(full(), width=width)[1].split() for width in (80, 60, 45, 30)}
    assert "cached" not in heads[60]
    assert "verdict" in heads[60]
    assert heads[30] == ["framework", "GPUs", "img/s"]
    assert set(heads[30]) < set(heads[45]) < set(heads[60]) < set(heads[80])


def test_long_names_lose_their_middle_and_keep_both_ends() -> None:
    lines = texts(full("data_parallel_with_overlap_v1"), full("data_parallel_with_overlap_v2", 2))
    assert any("v1 " in line and "data" in line for line in lines)
    assert any("v2 " in line and "…" in line for line in lines)


def test_columns_that_say_nothing_are_left_out() -> None:
    resident = record("single", 1, [10.0], metrics={"resident_peak_bytes": [100 * MIB]})
    assert texts(resident)[1].split() == ["framework", "GPUs", "img/s", "resident"]
    assert texts(resident)[-1] == "no verdict: there is no baseline to compare with"


def test_a_limit_that_is_held_without_a_baseline_is_the_verdict() -> None:
    def judged(**changes: float) -> Record:
        metrics = {
            name: msgspec.structs.replace(
                metric_verdict("noisy" if abs(change) < 0.01 else "ok", change),
                limit=None,
                limit_absolute=3000.0,
            )
            for name, change in changes.items()
        }
        return full(verdict=Verdict(metrics=metrics))

    held = {"throughput": 0.3, "allocated_peak_bytes": -0.2, "cached_peak_bytes": -0.9}
    lines = texts(judged(**held), width=120)
    assert lines[2].endswith("limit allocated held -20.0%"), "the nearest: 1.25 times away"
    assert "no baseline to compare with: only absolute limits were judged" in lines
    lines = texts(judged(**held | {"cached_peak_bytes": -0.001}), width=120)
    assert lines[2].endswith("limit cached noisy -0.1%")
    (line, *_) = judged_lines(judged(**held))
    assert line.startswith(
        "throughput ok: +30.0% (+29.5% to +30.5%) from the required at least 3,000.0 img/s, "
    )


def test_tests_of_one_case_are_told_apart_by_their_names() -> None:
    """As those that pytest-repeat runs again: their rows were alike."""
    names = ["a.py::test_train[ddp-1-2]", "a.py::test_train[ddp-2-2]", "a.py::test_other[single]"]
    made = [full("ddp"), full("ddp"), full("single", gpus=1)]
    lines = [line.text for line in table_lines(study_of(dict(zip(names, made, strict=True))), 120)]
    head = next(line for line in lines if "GPUs" in line)
    assert head.split()[:2] == ["framework", "test"]
    shown = [line[2:].split()[:2] for line in lines if line[2:].startswith("ddp")]
    assert sorted(shown)[:2] == [["ddp", "test_train[ddp-1-2]"], ["ddp", "test_train[ddp-2-2]"]]


def test_tests_of_one_name_in_two_files_are_told_apart_by_their_files() -> None:
    made = {"a.py::test_it": full("ddp"), "b.py::test_it": full("ddp")}
    text = "\n".join(line.text for line in table_lines(study_of(made), 120))
    assert "a.py::test_it" in text
    assert "b.py::test_it" in text


def test_groups_are_sorted_by_model_and_train_comes_first() -> None:
    made = [
        record("ddp", gpus, [10.0], case={"model": model, "phase": phase})
        for gpus in (2, 1)
        for model in ("b", "a")
        for phase in ("validate", "train")
    ]
    lines = texts(*made)
    assert [line for line in lines if ", " in line and line[0] != " "][:4] == [
        "a, train", "a, validate", "b, train", "b, validate",
    ]  # fmt: skip
    assert [line.split()[1] for line in lines if line.startswith("  ddp")] == ["1", "2"] * 4


def test_cases_of_other_settings_stand_apart() -> None:
    lines = texts(
        record("ddp", 1, [9.0], case={"precision": "fp32"}),
        record("ddp", 1, [8.0], case={"precision": "bf16"}),
    )
    assert {"resnet50, train, precision bf16", "resnet50, train, precision fp32"} <= set(lines)


def test_the_fastest_is_marked_as_clear_only_where_it_is() -> None:
    clear = texts(record("ddp", 2, [200.0, 201.0, 199.0]), record("fsdp", 2, [100.0, 101.0, 99.0]))
    assert [line[0] for line in clear if "200" in line or "  100" in line] == [">", " "]
    near = texts(record("ddp", 2, [100.0, 130.0, 80.0]), record("fsdp", 2, [99.0, 131.0, 79.0]))
    assert [line[0] for line in near if "fsdp" in line or "ddp" in line] == ["~", " "]
    alone = texts(record("ddp", 2, [100.0, 101.0]))
    assert not [line for line in alone if line[:1] in (">", "~")]


def test_more_ranks_than_cores_are_marked_and_explained() -> None:
    lines = texts(record("ddp", 4, [32.0], oversubscribed=True), record("single", 1, [8.0]))
    assert cells(lines, "ddp")[1] == "4*"
    assert cells(lines, "single")[1] == "1"
    assert "* more ranks than cores or GPUs: says nothing about speed" in lines
    crowded = [
        record(name, 4, [speed, speed], oversubscribed=True)
        for name, speed in (("a", 9.0), ("b", 1.0))
    ]
    assert not [line for line in texts(*crowded) if line[:1] in (">", "~")]


def test_statuses_have_colours_and_the_text_says_them_too() -> None:
    improved = full("fsdp", verdict=verdict("improved", throughput=0.1))
    lines = table_lines(study(full(), improved), 100)
    assert [line.markup for line in lines if "regressed" in line.text] == [("red",)]
    assert [line.markup for line in lines if "improved +10.0%" in line.text] == [("green",)]


def test_a_verdict_names_the_metric_that_decided_it() -> None:
    mixed = Verdict(
        status="regressed",
        metrics={
            "throughput": metric_verdict("ok", 0.0),
            "allocated_peak_bytes": metric_verdict("regressed", 0.12),
        },
    )
    assert verdict_text(mixed) == "regressed allocated +12.0%"
    assert verdict_text(verdict("improved", step_time_s=-0.1)) == "improved step time -10.0%"
    assert verdict_text(Verdict(status="incomparable", reason="torch")) == "incomparable"
    assert verdict_text(verdict("ok")) == "ok"
    assert verdict_text(Verdict()) is None


def test_plans_are_told_below_with_their_prediction_and_what_was_measured() -> None:
    lines = texts(
        record("pipedream", 3, [9.0], plan=plan_entry("2-1"), metrics={"bubble_fraction": [0.25]}),
        width=200,
    )
    assert lines[-2:] == [
        "plans (replicas of each stage)",
        "  pipedream, resnet50, 3 GPUs, train: 2-1, by the planner; 10 ms a step predicted,"
        " 12.5 measured, bubble 25%",
    ]
    data_parallel = plan_entry("2", parallelism="data", decided_by="user")
    assert texts(record("x", 2, [9.0], plan=data_parallel))[-1] == (
        "  x, resnet50, 2 GPUs, train: 2, pure data parallelism, by the user"
    )


def test_missing_figures_are_dashes_and_huge_ones_their_order() -> None:
    unmeasured = records.record(Case("ddp", "resnet50", 1, "train"), {"speedup": [1.0]})
    lines = texts(unmeasured, record("fsdp", 1, [1e17, 1e17]), record("x", 1, [2.0]))
    assert cells(lines, "ddp")[2] == "-"
    assert cells(lines, "fsdp")[2] == "1e+17"
    assert cells(lines, "x")[2] == "2"


def test_a_record_with_a_figure_that_cannot_be_is_left_out_and_named() -> None:
    lines = texts(record("ddp", 1, [float("nan")]), record("fsdp", 1, [1.0]), width=200)
    assert (
        "this session: the case test_0 is left out: metrics.throughput.value: nan is not"
        in (lines[-1])
    )
    assert cells(lines, "fsdp")[2] == "1"


def test_names_cannot_steer_the_terminal() -> None:
    hostile = record("ev\x1b[31mil\n\r", 1, [1.0], case={"model": "m\x07\x9b2J\u202e"})
    broken = record("b\x1b", 1, [float("inf")])
    lines = texts(hostile, broken)
    assert all(line.isprintable() for line in lines)
    assert any("left out" in line for line in lines)


def test_throughput_is_headed_by_the_unit_of_its_cases() -> None:
    tokens = record("ddp", 1, [5e4, 5.1e4], case={"model": "gpt2"}, unit="tok/s")
    lines = texts(tokens)
    assert "tok/s" in lines[1].split()
    assert "± half of the 95% interval of tok/s over launches" in lines
    both = texts(tokens, record("ddp", 1, [100.0, 101.0]))
    heads = [line.split() for line in both if line.split()[:1] == ["framework"]]
    assert len(heads) == 2
    assert all("samples/s" in head for head in heads)
    assert [line for line in both if re.search(r"\[\w+/s\]$", line)] == [
        "gpt2, train [tok/s]",
        "resnet50, train [img/s]",
    ]


def test_nothing_measured_is_said() -> None:
    assert table_lines(study_of({})) == [Line("no case was measured")]


def calls_of_a_table(models: int) -> int:
    """How many functions are called for a table of eight rows of each model."""
    many = [
        record(framework, gpus, [100.0, 101.0, 102.0], case={"model": f"model{number}"})
        for framework in ("ddp", "horovod", "fsdp", "single")
        for gpus in (1, 2)
        for number in range(models)
    ]
    calls = itertools.count()
    sys.setprofile(lambda _frame, event, _argument: event.endswith("call") and next(calls))
    try:
        lines = texts(*many)
    finally:
        sys.setprofile(None)
    assert len(lines) > 8 * models
    return next(calls)


def test_a_thousand_rows_are_the_work_of_as_many_single_ones() -> None:
    calls_of_a_table(1)  # imports what there is to import
    assert calls_of_a_table(125) < 6 * calls_of_a_table(25)


def test_values_for_machines_stay_unrounded() -> None:
    (section,) = sections(study(full()))
    values = {column.key: column.value(section.rows[0]) for column in columns(section.rows)}
    assert values["throughput"] == 1401.0
    assert values["allocated_peak_bytes"] == 1000 * MIB
    assert values["plan"] == "2-1"


def test_text_is_measured_in_columns() -> None:
    assert width_of("漢e\N{COMBINING ACUTE ACCENT}") == 3
    assert cut_middle("abcdefgh", 5) == "ab…gh"
    assert cut_middle("漢字漢字", 5) == "漢…字"
    assert [cut_middle("abcdefgh", width) for width in (0, 1, 2)] == ["", "a", "ab"]
    assert pad("漢", 4) == "漢  "
    assert pad("1", 3, left=True) == "  1"
