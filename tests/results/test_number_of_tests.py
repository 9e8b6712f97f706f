"""The tests that share a session's false-alarm rate: those of `compare` of the same files."""

from pathlib import Path

import pytest

from pytest_dnnbench.results.baselines.limits import Limit, parse_limits
from pytest_dnnbench.results.baselines.stored_sessions import storage_runs
from pytest_dnnbench.results.records.saved import read_saved
from pytest_dnnbench.results.statistics.noise import Noise
from pytest_dnnbench.results.verdicts import compare as compare_module
from pytest_dnnbench.results.verdicts.calibration import noise_summary
from pytest_dnnbench.results.verdicts.compare import compare
from pytest_dnnbench.results.verdicts.number_of_tests import number_of_tests
from tests.results.synthetic import NAME, record, save, with_metric

OTHER = NAME.replace("2gpu", "4gpu")


def test_cases_with_different_limits_are_counted_as_compare_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_cache = with_metric(record(), "cached_peak_bytes", [1.0] * 3)
    cases = {NAME: record(), OTHER: with_cache}
    (tmp_path / "s").mkdir()
    save(tmp_path / "s" / "0001_a.json", cases)
    user: dict[str, Limit] = parse_limits({"step_time_s": "off", "loss": "+5%"}, "a test")
    layers = {name: [user] for name in cases}
    baseline = storage_runs(tmp_path / "s", "latest")
    counted: list[int] = []

    def counting(rate: float, tests: int) -> float:
        counted.append(tests)
        return rate

    monkeypatch.setattr(compare_module, "alpha_per_test", counting)
    now = read_saved(save(tmp_path / "now.json", cases))
    compare(baseline, now, layers=[user], false_alarms=0.01)
    assert counted == [2 + 3], "throughput and memory, and once more memory"
    assert number_of_tests(layers, baseline, "cuda") == counted[0]


@pytest.mark.parametrize(("device", "tests"), [("cpu", 3), ("cuda", 4)])
def test_a_case_that_is_not_stored_counts_what_its_device_can_have(device: str, tests: int) -> None:
    assert number_of_tests({"a": [], "b": []}, None, device) == 2 * tests
    off = parse_limits({"throughput": "off"}, "a test")
    assert number_of_tests({"a": [off]}, None, device) == tests - 1
    yardstick = parse_limits({"yardstick_s": "+5%"}, "a test")
    assert number_of_tests({"a": [yardstick]}, None, device) == tests + 1
    resident = parse_limits({"resident_peak_bytes": "off"}, "a test")
    assert number_of_tests({"a": [resident]}, None, device) == tests - (device == "cpu")


def test_what_a_calibration_promises_follows_the_false_alarm_rate() -> None:
    launches, noise = [100.0, 101.0, 99.0], Noise(0.01, 20, ((0.5, 1.0),), "learnt", 5, 15)

    def detects(false_alarms: float) -> float:
        text = noise_summary(
            *("throughput", launches, [launches] * 5, noise, None),
            false_alarms=false_alarms,
            tests=12,
        )
        return float(text.partition("detects ")[2].partition("%")[0])

    assert detects(0.001) > detects(0.01) > detects(0.1)
