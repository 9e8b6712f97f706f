"""A case that regressed says why: against a baseline that has a breakdown, in the failing test and
in the file."""

import json
from typing import Any

import pytest

from tests.acceptance.test_main_job import CASES
from tests.fake_launches import CONFTEST

OPTIONS = (
    *("--gpus=1", "--dnn-device=cpu", "--dnn-models=resnet18", "--dnn-frameworks=single"),
    *("--dnn-steps=3", "-k", "train", "--benchmark-storage=saved"),
)


@pytest.fixture
def run(pytester: pytest.Pytester) -> Any:
    """Runs one training case; keyword arguments become the environment."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_cases=CASES)

    def start(*arguments: str, **environment: Any) -> pytest.RunResult:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, json.dumps(value))
            return pytester.runpytest_inprocess(*OPTIONS, *arguments)

    return start


def record(pytester: pytest.Pytester, number: int) -> Any:
    """The only record of a saved session."""
    [path] = (pytester.path / "saved").rglob(f"{number:04}_*.json")
    [benchmark] = json.loads(path.read_text())["benchmarks"]
    return benchmark["extra_info"]["dnnbench"]


SLOWER = {"FAKE_LEVELS": {"single": 60}, "FAKE_AGAIN": {"single": 60}}
LATE_DATA = {"FAKE_PARTS_MS": {"single": {"data": 6.0}}}


def test_a_regressed_case_is_profiled_again_and_says_what_grew(
    run: Any, pytester: pytest.Pytester
) -> None:
    stored = run("--dnn-breakdown", "--benchmark-save=base")
    stored.assert_outcomes(passed=1, deselected=1)
    stored.stdout.fnmatch_lines(
        ["where a step's time goes", "*compute*comm.*optim.*", "*67%*25%*8%*x1.20"]
    )
    breakdown = record(pytester, 1)["breakdown"]
    assert breakdown["shares"]["compute"] == pytest.approx(8 / 12, rel=1e-3)
    assert len(breakdown["launches"]) == 3

    result = run("--dnn-baseline=latest", "--benchmark-save=worse", **SLOWER, **LATE_DATA)
    result.assert_outcomes(failed=1, deselected=1)
    result.stdout.fnmatch_lines(
        [
            "  why: a profiled step of rank 0 takes * ms more (12* to 18* ms)",
            "    data wait in fake::data: 6* ms more (0 ms to 6* ms, 0 to 1 calls), * of the diff*",
        ]
    )
    why = record(pytester, 2)["why"]
    assert [cause["part"] for cause in why["causes"]] == ["data"]
    assert why["causes"][0]["share"] == pytest.approx(1, abs=0.1)
    assert len(record(pytester, 2)["breakdown"]["launches"]) == 2, "two launches more"

    # The launches are slower, their profiles are not: nothing is made up.
    result = run("--dnn-baseline=0001", "--benchmark-save=worse", **SLOWER)
    result.assert_outcomes(failed=1, deselected=1)
    result.stdout.fnmatch_lines(["  why: the profiled steps do not show the difference: *"])


def test_a_case_that_is_not_profiled_says_nothing_of_it(
    run: Any, pytester: pytest.Pytester
) -> None:
    run("--benchmark-save=base").assert_outcomes(passed=1, deselected=1)
    assert record(pytester, 1)["breakdown"] is None
    result = run("--dnn-baseline=latest", **SLOWER)
    result.assert_outcomes(failed=1, deselected=1)
    assert "why:" not in result.stdout.str()
    assert "where a step's time goes" not in result.stdout.str()


def test_a_folder_for_traces_that_cannot_be_used_is_refused_before_anything_is_measured(
    run: Any, pytester: pytest.Pytester
) -> None:
    pytester.path.joinpath("file").write_text("")
    result = run("--dnn-traces=file/traces")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "cannot be written to (Not a directory): give another folder" in result.stderr.str()
    assert "Traceback" not in result.stderr.str()
    assert not result.stdout.str().count("passed")
