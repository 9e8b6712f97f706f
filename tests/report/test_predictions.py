"""Predictions in the table and in a case's details."""

from pathlib import Path

import msgspec

from pytest_dnnbench.report.page import page_html
from pytest_dnnbench.report.predictions import prediction_details, prediction_lines
from pytest_dnnbench.report.rows import sections
from pytest_dnnbench.report.table import study_of, table_lines
from pytest_dnnbench.report.write import write_report
from pytest_dnnbench.results.records.schema import (
    CollectiveEntry,
    Conditions,
    PredictionEntry,
    Record,
)
from tests.report.records import measured, plan_entry

PREDICTED = PredictionEntry(
    asked=True,
    step_time_s=0.1,
    measured_step_time_s=0.12,
    error=0.2,
    throughput=640.0,
    compute_s=0.07,
    exposed_s=0.02,
    update_s=0.01,
    memory_bytes=100 * 2.0**20,
    overlaps=True,
    collectives={"all_reduce": CollectiveEntry(fixed_s=1e-5, bytes_s=25e9)},
    profile_parts_over_whole=1.02,
)


def with_prediction(entry: PredictionEntry, framework: str = "ddp") -> Record:
    made = measured(framework, "resnet50", 2)
    made.prediction = entry
    return made


def shown(**records: Record) -> list[str]:
    return prediction_lines(study_of(records), 80)


def test_the_table_has_a_row_per_case_and_the_errors_together() -> None:
    fast = msgspec.structs.replace(PREDICTED, measured_step_time_s=0.09, error=-0.1)
    lines = shown(a=with_prediction(PREDICTED), b=with_prediction(fast, "fsdp"))
    assert lines == [
        "predicted steps",
        "  case               predicted  measured  error  exposed",
        "  ddp, resnet50, 2      100 ms    120 ms   +20%      20%",
        "  fsdp, resnet50, 2     100 ms     90 ms   -10%      20%",
        "  errors: median 15%, largest 20% of the predicted time",
        "  exposed: share of the predicted step in which ranks only exchange",
        "",
    ]
    records = {"a": with_prediction(PREDICTED)}
    assert "predicted steps" in [line.text for line in table_lines(study_of(records), 80)]


def test_a_case_that_could_not_be_predicted_says_why() -> None:
    refused = PredictionEntry(asked=True, refused="a profile knows nothing of\x1b[2J compile")
    lines = shown(a=with_prediction(refused))
    assert lines[1].startswith("  not predicted: ddp, resnet50, 2: a profile knows nothing of")
    assert lines[1].isprintable()
    assert prediction_details(refused)[0].isprintable()


def test_a_disturbed_measurement_is_marked() -> None:
    made = with_prediction(PREDICTED)
    made.launches = [
        msgspec.structs.replace(launch, conditions=Conditions(disturbed="busy"))
        for launch in made.launches
    ]
    lines = shown(a=made)
    assert "120 ms !" in lines[2]
    assert "  ! every launch of the case was disturbed" in lines


def test_plans_that_nobody_asked_have_lines_of_their_own() -> None:
    made = with_prediction(msgspec.structs.replace(PREDICTED, asked=False), "pipedream")
    made.plan = plan_entry()
    assert shown(a=made) == []
    both = shown(a=made, b=with_prediction(PREDICTED))
    assert [line.split(",")[0].strip() for line in both[2:4]] == ["ddp", "pipedream"]
    asked = with_prediction(PREDICTED, "pipedream")
    asked.plan = plan_entry()
    assert shown(a=asked)[2].startswith("  pipedream, resnet50, 2 ")


def test_the_details_say_from_what_it_was_predicted() -> None:
    assert prediction_details(PREDICTED) == [
        "predicted step time 100 ms (compute 70 ms, exposed 20 ms, update 10 ms)",
        "measured step time 120 ms, +20%",
        "predicted memory of a rank 100 MiB",
        "all reduce 0.01 ms and 25 GB/s",
        "profile parts over whole 1.02",
    ]


def test_what_the_runtime_takes_itself_is_in_the_details_of_a_pipeline() -> None:
    runtime = "of each predicted pass the runtime itself 0.5 ms"
    made = with_prediction(msgspec.structs.replace(PREDICTED, runtime_s=5e-4), "1f1b")
    assert made.prediction is not None
    assert runtime in prediction_details(made.prediction)
    made.plan = plan_entry("1-1")
    study = study_of({"a": made})
    assert runtime in page_html(study, sections(study), [], "Report")
    made.prediction = PREDICTED
    study = study_of({"a": made})
    assert runtime not in page_html(study, sections(study), [], "Report")


def test_the_page_has_a_mark_for_each_case_and_no_plot_without(tmp_path: Path) -> None:
    name = "test_cases.py::test_train[ddp-resnet50-2gpu]"
    refused = with_prediction(PredictionEntry(refused="compile"), "fsdp")
    write_report(study_of({name: with_prediction(PREDICTED), "refused": refused}), tmp_path)
    assert (tmp_path / "plots" / "predictions-1.svg").exists()
    page = (tmp_path / "index.html").read_text()
    assert "Predicted and measured steps" in page
    assert "predicted step time 100 ms (compute 70 ms, exposed 20 ms, update 10 ms)" in page
    # A file of another program's: nothing that is not above zero has a place on the axes.
    negative = msgspec.structs.replace(PREDICTED, step_time_s=-1.0)
    half = msgspec.structs.replace(PREDICTED, measured_step_time_s=None)
    records = {name: with_prediction(negative), "half": with_prediction(half, "fsdp")}
    write_report(study_of(records), tmp_path)
    assert not (tmp_path / "plots" / "predictions-1.svg").exists()
