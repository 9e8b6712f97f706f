"""The terminal's table: every row in its group, nothing wider than the terminal, whatever the
records hold."""

import statistics
import time
from typing import Any

import pytest

from pytest_dnnbench.report.plans import plan_text
from pytest_dnnbench.report.rows import columns, sections, verdict_text
from pytest_dnnbench.report.table import Line, render, study_of
from pytest_dnnbench.report.text import cut_middle, pad, width_of

MIB = 2.0**20


def entry(launches: list[float], unit: str = "1") -> dict[str, Any]:
    return {
        "value": statistics.median(launches),
        "unit": unit,
        "better": "higher",
        "per_launch": launches,
    }


def record(framework: str, gpus: int, throughputs: list[float], **more: Any) -> dict[str, Any]:
    """A record; `case` and `metrics` add to what it has, other names replace."""
    case = {
        "framework": framework,
        "model": "resnet50",
        "gpus": gpus,
        "phase": "train",
        "steps": 10,
        "options": {},
    }
    return {
        "case": case | more.pop("case", {}),
        "metrics": {"throughput": entry(throughputs, "img/s")} | more.pop("metrics", {}),
        "launches": [{"step_time_s": [0.1] * 10} for _ in throughputs],
        "verdict": {"status": "no-baseline", "against": None, "metrics": {}},
        **more,
    }


def verdict(status: str, **changes: float) -> dict[str, Any]:
    metrics = {name: {"status": status, "change": change} for name, change in changes.items()}
    return {"status": status, "against": {"file": "a.json"}, "metrics": metrics}


def texts(*records: Any, width: int = 80) -> list[str]:
    return [line.text for line in render(study_of(records), width)]


def cells(lines: list[str], first: str) -> list[str]:
    return next(line[2:].split() for line in lines if line[2:].startswith(first))


def full(framework: str = "ddp", gpus: int = 4, **more: Any) -> dict[str, Any]:
    """A record with every column."""
    metrics = {
        "speedup": entry([3.5], "x"),
        "scaling_efficiency": entry([0.875]),
        "allocated_peak_bytes": entry([1000 * MIB], "B"),
        "cached_peak_bytes": entry([12000 * MIB], "B"),
    }
    plan = {"shape": "2-1", "parallelism": "pipeline", "decided_by": "planner"}
    about = {"plan": plan, "verdict": verdict("regressed", throughput=-0.051)} | more
    return record(framework, gpus, [1400.0, 1401.0, 1402.0], metrics=metrics, **about)


def test_a_row_holds_all_that_was_measured() -> None:
    lines = texts(full(), width=120)
    assert lines[0] == "resnet50, train"
    assert lines[1].split() == [
        "framework", "plan", "GPUs", "img/s", "±", "speed-up", "eff.", "allocated", "cached", "verdict",
    ]  # fmt: skip
    row = cells(lines, "ddp")
    assert row[:4] == ["ddp", "2-1", "4", "1,401.0"]
    assert row[4].endswith("%")
    assert "± half of the 95% interval of img/s over launches" in lines
    assert row[5:] == ["3.50x", "88%", "1,000", "12,000", "regressed", "-5.1%"]


@pytest.mark.parametrize("width", [1, 10, 20, 40, 60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    long = full(
        "a_framework_with_a_name_that_goes_on_and_on", case={"model": "some.package:factory" * 9}
    )
    lines = texts(long, full(), full("漢字" * 30, 2), width=width)
    assert max(map(width_of, lines)) <= width


def test_eighty_columns_hold_memory_plan_and_verdict() -> None:
    lines = texts(full("pipedream"))
    assert lines[1].split() == [
        "framework", "plan", "GPUs", "img/s", "speed-up", "eff.", "allocated", "cached", "verdict",
    ]  # fmt: skip


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
    resident = record("single", 1, [10.0], metrics={"resident_peak_bytes": entry([100 * MIB], "B")})
    assert texts(resident)[1].split() == ["framework", "GPUs", "img/s", "resident"]
    assert texts(resident)[-1] == "no verdict: there is no baseline to compare with"


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
    lines = texts(
        record("ddp", 4, [32.0], case={"oversubscribed": True}), record("single", 1, [8.0])
    )
    assert cells(lines, "ddp")[1] == "4*"
    assert cells(lines, "single")[1] == "1"
    assert "* more ranks than cores: says nothing about speed" in lines
    crowded = [
        record(name, 4, [speed, speed], case={"oversubscribed": True})
        for name, speed in (("a", 9.0), ("b", 1.0))
    ]
    assert not [line for line in texts(*crowded) if line[:1] in (">", "~")]


def test_statuses_have_colours_and_the_text_says_them_too() -> None:
    lines = render(
        study_of([full(), full("fsdp", verdict=verdict("improved", throughput=0.1))]), 100
    )
    assert [line.markup for line in lines if "regressed" in line.text] == [("red",)]
    assert [line.markup for line in lines if "improved +10.0%" in line.text] == [("green",)]


def test_a_verdict_names_the_metric_that_decided_it() -> None:
    changed = {
        "throughput": {"status": "ok", "change": 0.0},
        "allocated_peak_bytes": {"status": "regressed", "change": 0.12},
    }
    assert verdict_text({"status": "regressed", "metrics": changed}) == "regressed allocated +12.0%"
    assert verdict_text({"status": "incomparable", "reason": "torch"}) == "incomparable"
    assert verdict_text({"status": "ok", "metrics": {"throughput": None}}) == "ok"
    assert verdict_text({"status": "noisy", "metrics": [1]}) == "noisy"
    assert verdict_text({}) is None


def test_plans_are_told_below_with_what_they_promised_and_what_came_of_it() -> None:
    plan = {
        "shape": "2-1",
        "decided_by": "planner",
        "predicted_step_time_s": 0.01,
        "measured_step_time_s": 0.0125,
    }
    lines = texts(
        record("pipedream", 3, [9.0], plan=plan, metrics={"bubble_fraction": entry([0.25])}),
        width=200,
    )
    assert lines[-2:] == [
        "plans (replicas of each stage)",
        "  pipedream, resnet50, 3 GPUs, train: 2-1, by the planner; 10 ms a step predicted, 12.5 measured, bubble 25%",
    ]
    bare = texts(
        record(
            "x", 2, [9.0], plan={"shape": "2", "parallelism": "data", "predicted_step_time_s": "?"}
        )
    )
    assert bare[-1] == "  x, resnet50, 2 GPUs, train: 2, pure data parallelism"
    bad: list[object] = [None, {}, {"shape": ""}, {"shape": 3}, "2-1"]
    assert [plan_text(plan) for plan in bad] == [None] * 5


def test_missing_and_senseless_figures_are_dashes() -> None:
    broken = record(
        "ddp", 1, [1.0], metrics={"throughput": {"value": float("nan"), "per_launch": None}}
    )
    huge = record(
        "fsdp",
        1,
        [1e17, 1e17],
        metrics={"speedup": entry([float("inf")]), "resident_peak_bytes": 3},
    )
    lines = texts(
        broken, huge, {"case": None}, 7, record("x", 1, [2.0], verdict="?", plan=[1], launches=None)
    )
    assert cells(lines, "ddp")[2] == "-"
    assert cells(lines, "fsdp")[2] == "1e+17"
    assert cells(lines, "x")[2] == "2"
    assert sum("left out" in line for line in lines) == 2


def test_names_cannot_steer_the_terminal() -> None:
    hostile = record("ev\x1b[31mil\n\r", 1, [1.0], case={"model": "m\x07\x9b2J\u202e"})
    assert all(line.isprintable() for line in texts(hostile))


def test_nothing_measured_is_said() -> None:
    assert render(study_of([])) == [Line("no case was measured")]


def test_a_thousand_rows_take_less_than_five_seconds() -> None:
    many = [
        record(framework, gpus, [100.0, 101.0, 102.0], case={"model": f"model{number}"})
        for framework in ("ddp", "horovod", "fsdp", "single")
        for gpus in (1, 2)
        for number in range(125)
    ]
    began = time.process_time()
    assert len(texts(*many)) > 1000
    assert time.process_time() - began < 5


def test_values_for_machines_stay_unrounded() -> None:
    (section,) = sections(study_of([full()]))
    values = {one.key: one.value(section.rows[0]) for one in columns(section.rows)}
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
