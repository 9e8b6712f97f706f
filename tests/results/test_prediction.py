"""The limit on the error of a prediction."""

import msgspec
import pytest

from pytest_dnnbench.results.records.schema import Conditions, PredictionEntry, Record
from pytest_dnnbench.results.verdicts.prediction import prediction_failure
from tests.report.records import measured


def record(error: float | None, parts_over_whole: float | None = None) -> Record:
    made = measured("ddp", "resnet50", 2)
    measured_s = None if error is None else 0.1 * (1 + error)
    made.prediction = PredictionEntry(
        step_time_s=0.1,
        measured_step_time_s=measured_s,
        error=error,
        profile_parts_over_whole=parts_over_whole,
    )
    return made


@pytest.mark.parametrize("error", [0.2, -0.2, 0.0])
def test_a_step_within_the_limit_passes(error: float) -> None:
    assert prediction_failure(record(error), 0.2) is None


@pytest.mark.parametrize(("error", "text"), [(0.25, "+25.0%"), (-0.5, "-50.0%"), (0.204, "+20.4%")])
def test_a_step_beyond_it_fails_in_either_direction(error: float, text: str) -> None:
    failure = prediction_failure(record(error), 0.2)
    assert failure == (
        f"prediction: a step takes {100 * (1 + error):.4g} ms, and 100 ms were predicted: {text},"
        " beyond --dnn-prediction-error 20%"
    )


def test_a_doubtful_profile_is_named() -> None:
    failure = prediction_failure(record(0.5, parts_over_whole=1.8), 0.2)
    assert failure is not None
    assert failure.endswith("its operators take 1.80 times as long as the whole model")
    trusted = prediction_failure(record(0.5, parts_over_whole=1.1), 0.2)
    assert trusted is not None
    assert "doubtful" not in trusted


def test_what_was_not_measured_cannot_be_off() -> None:
    disturbed = record(0.5)
    disturbed.launches = [
        msgspec.structs.replace(launch, conditions=Conditions(disturbed="busy"))
        for launch in disturbed.launches
    ]
    assert prediction_failure(disturbed, 0.2) is None
    refused = measured("ddp", "resnet50", 2)
    assert prediction_failure(refused, 0.2) is None, "no prediction at all"
    refused.prediction = PredictionEntry(refused="compile")
    assert prediction_failure(refused, 0.2) is None
