"""Predictions as a user sees them: beside the measurement, and as a limit. What real ranks predict
is in tests/rank/test_prediction.py."""

import json
from typing import Any

import pytest

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.session import settings_reading
from tests.acceptance.test_main_job import CASES
from tests.fake_launches import CONFTEST


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs training cases whose steps take 10 ms; `predicted_ms` is by framework."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_cases=CASES)

    def start(*arguments: str, **predicted_ms: float) -> pytest.RunResult:
        monkeypatch.setenv("FAKE_PREDICTED_MS", json.dumps(predicted_ms))
        return pytester.runpytest_inprocess(
            *("--gpus=2", "--dnn-device=cpu", "--dnn-models=resnet18", "--dnn-steps=3"),
            *("--dnn-frameworks=single,ddp", "-k", "train", "--benchmark-json=out.json"),
            *arguments,
        )

    return start


def predictions(pytester: pytest.Pytester) -> dict[str, Any]:
    content = json.loads((pytester.path / "out.json").read_text())
    return {
        each["name"]: each["extra_info"]["dnnbench"].get("prediction")
        for each in content["benchmarks"]
    }


def test_a_step_that_takes_longer_than_predicted_fails_its_case(
    run: Any, pytester: pytest.Pytester
) -> None:
    result = run("--dnn-prediction-error=20%", single=10.5, ddp=5.0)
    result.assert_outcomes(passed=1, failed=2, deselected=3)
    result.stdout.fnmatch_lines(
        [
            "*prediction: a step takes 10* ms, and 5 ms were predicted: +1??.?%, beyond"
            " --dnn-prediction-error 20%*",
            "predicted steps",
            "  case                 predicted  measured  error  exposed",
            "  single, resnet18, 1    10.5 ms * ms    -5%       0%",
            "  ddp, resnet18, 1          5 ms * ms  +100%       0%",
            "  ddp, resnet18, 2          5 ms * ms  +100%       0%",
            "  errors: median 100%, largest 100% of the predicted time",
        ]
    )
    entries = predictions(pytester)
    entry = entries["test_train[single-resnet18-1gpu]"]
    assert entry["step_time_s"] == entry["compute_s"] == 0.0105
    assert entry["error"] == entry["measured_step_time_s"] / 0.0105 - 1


def test_predictions_are_made_when_they_are_asked_for(run: Any, pytester: pytest.Pytester) -> None:
    result = run(single=10.5, ddp=5.0)
    result.assert_outcomes(passed=3, deselected=3)
    result.stdout.no_fnmatch_line("*predicted*")
    assert set(predictions(pytester).values()) == {None}
    result = run("--dnn-predict", single=10.5, ddp=5.0)
    result.assert_outcomes(passed=3, deselected=3)
    result.stdout.fnmatch_lines(["predicted steps"])


@pytest.mark.parametrize("text", ["20", "-5%", "0%", "much", "%", "1e400%"])
def test_a_limit_is_a_percentage(text: str) -> None:
    with pytest.raises(UsageError, match=r"give a percentage above 0, as in 20%") as refusal:
        settings_reading._percentage(text)
    assert f"--dnn-prediction-error {text!r}: " in str(refusal.value)
    assert settings_reading._percentage(" 2.5% ") == 0.025
