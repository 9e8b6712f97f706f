"""The example package under examples/: a third party adds a framework, its option, a metric and a
model through the hooks alone."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "allreduce"
LENET_PARAMETERS = 61_706
CASES = """
def test_train(framework, model, gpus, process_group, dnnbench):
    dnnbench.measure(framework, model, process_group(gpus), phase="train")
"""


@pytest.fixture
def installed(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder of cases, in which the package can be imported and pytest loads its hooks."""
    paths = [str(EXAMPLE), str(EXAMPLE.parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    pytester.makepyfile(test_cases=CASES)
    return pytester


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess(
        "-p", "dnnbench_allreduce.plugin", "--dnn-device=cpu", "--dnn-warmup=1", *arguments
    )


def test_everything_that_the_package_adds_is_measured_and_recorded(
    installed: pytest.Pytester,
) -> None:
    result = run(
        installed,
        *("--gpus=2", "--dnn-frameworks=ddp,allreduce", "--dnn-models=lenet"),
        *("--dnn-launches=2", "--dnn-steps=3", "--dnn-allreduce-buckets=3", "--dnn-predict"),
        "--benchmark-json=out.json",
    )
    result.assert_outcomes(passed=4)
    saved = json.loads((installed.path / "out.json").read_text())
    records: dict[str, Any] = {
        benchmark["name"]: benchmark["extra_info"]["dnnbench"] for benchmark in saved["benchmarks"]
    }
    record = records["test_train[allreduce-lenet-2gpu]"]
    assert record["case"]["options"] == {"buckets": 3}
    assert record["correctness"]["largest_deviation"]["gradients"] < 1e-9
    entry = record["metrics"]["exchange_time_s"]
    assert len(entry["per_launch"]) == 2
    assert len(entry["per_rank"]) == 2
    longest = max(time for launch in record["launches"] for time in launch["step_time_s"])
    assert 0 < entry["value"] < longest
    assert record["thresholds"]["exchange_time_s"]["relative"] == 0.05
    assert record["metrics"]["exchanged_bytes"]["value"] == 4 * LENET_PARAMETERS
    prediction = record["prediction"]
    assert prediction["exposed_s"] > 0, "its exchange, after the backward pass"
    assert "exchange_time_s" not in records["test_train[ddp-lenet-2gpu]"]["metrics"]


def test_its_workload_is_trained_by_its_framework_with_its_optimiser(
    installed: pytest.Pytester,
) -> None:
    result = run(
        installed,
        *("--dnn-gpu-counts=2", "--dnn-frameworks=allreduce", "--dnn-models=autoencoder"),
        *("--dnn-launches=1", "--dnn-steps=2", "--benchmark-json=out.json"),
    )
    result.assert_outcomes(passed=1)
    saved = json.loads((installed.path / "out.json").read_text())
    record = saved["benchmarks"][0]["extra_info"]["dnnbench"]
    assert record["metrics"]["throughput"]["unit"] == "sample/s"
    assert "a fresh AdamW" in record["correctness"]["about"]["reference"]


def test_its_options_are_in_the_help_and_checked(installed: pytest.Pytester) -> None:
    run(installed, "--help").stdout.fnmatch_lines(["*--dnn-allreduce-buckets*", "*all-reduces*"])
    result = run(installed, "--dnn-allreduce-buckets=many")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--dnn-allreduce-buckets 'many' is not a number*"])
    installed.makeini("[pytest]\ndnn_allreduce_buckets = few\n")
    result = run(installed, "--collect-only")
    result.stderr.fnmatch_lines(["*dnn_allreduce_buckets in the ini file 'few' is not a number*"])


def test_its_metric_can_be_limited(installed: pytest.Pytester) -> None:
    result = run(
        installed,
        *("--dnn-gpu-counts=1", "--dnn-frameworks=allreduce", "--dnn-models=lenet"),
        *("--dnn-launches=1", "--dnn-steps=2", "--dnn-confirm=0"),
        "--dnn-limits=exchanged_bytes<=1KiB",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*exchanged_bytes: *required: at most*"])


def test_a_conftest_can_do_the_same(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        from pytest_dnnbench import FrameworkOption, FrameworkSpec

        def pytest_dnnbench_frameworks():
            shapes = ("flat", "deep")
            option = FrameworkOption("tree", "my-tree", "flat", "shape of my tree", shapes)
            return [FrameworkSpec("mine", "my.worker:Worker", "mine", options=(option,))]
        """
    )
    pytester.makepyfile(test_cases=CASES)
    arguments = ("-p", "no:cacheprovider", "--dnn-device=cpu", "--collect-only", "-q")
    listed = pytester.runpytest_subprocess(
        *arguments, "--dnn-frameworks=mine", "--dnn-models=resnet18", "--dnn-my-tree=deep"
    )
    listed.stdout.fnmatch_lines(["*test_train[[]mine-resnet18-1gpu[]]"])
    refused = pytester.runpytest_subprocess(*arguments, "--dnn-my-tree=tall")
    refused.stderr.fnmatch_lines(["*--dnn-my-tree 'tall' is unknown: choose from flat, deep*"])


def test_a_metric_without_a_row_is_refused_after_the_first_launch(
    installed: pytest.Pytester,
) -> None:
    installed.makepyfile(
        my_worker="""
        from pytest_dnnbench.rank.frameworks.single import SingleWorker

        class Chatty(SingleWorker):
            def metrics(self):
                with open("asked", "a") as file:
                    file.write("x")
                return {"goodness": 1.0}
        """,
    )
    installed.makeconftest(
        """
        from pytest_dnnbench import FrameworkSpec

        def pytest_dnnbench_frameworks():
            return [FrameworkSpec("chatty", "my_worker:Chatty", "reports what nobody expects")]

        def pytest_dnnbench_models():
            return {"tiny": "tests.tiny_models:tiny"}
        """
    )
    result = installed.runpytest_subprocess(
        *("--dnn-device=cpu", "--dnn-gpu-counts=1", "--dnn-frameworks=chatty"),
        *("--dnn-models=tiny", "--dnn-launches=3", "--dnn-steps=1"),
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*'goodness'*pytest_dnnbench_metrics*"])
    assert (installed.path / "asked").read_text() == "x", "one launch, and no more"
