"""Models and frameworks that a conftest adds, or puts in the place of ours, through the hooks: the
ranks measure these and no others."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.hooked import TRACE

ROOT = Path(__file__).resolve().parents[2]

CASE = """
def test_train(framework, model, gpus, process_group, dnnbench):
    dnnbench.measure(framework, model, process_group(gpus), phase="train")
"""

CONFTEST = """
from pytest_dnnbench.catalog import FrameworkSpec

def pytest_dnnbench_models():
    return {"resnet18": "tests.hooked:hooked_model", "mine": "tests.hooked:hooked_model"}

def pytest_dnnbench_frameworks():
    about = "a framework of the test's"
    return [FrameworkSpec("hooked", "tests.hooked:HookedWorker", about, max_gpus=1)]
"""


@pytest.fixture
def traces(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which ranks leave their traces."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = pytester.mkdir("traces")
    monkeypatch.setenv(TRACE, str(folder))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_cases=CASE)
    return folder


def measured(pytester: pytest.Pytester, framework: str, model: str) -> dict[str, Any]:
    """The record of the one case, in one launch."""
    names = ("--dnn-frameworks", framework, "--dnn-models", model)
    size = ("--dnn-batch-size", "4", "--dnn-steps", "2", "--dnn-warmup", "1", "--dnn-launches", "1")
    where = ("--dnn-device", "cpu", "--gpus", "1")
    pytester.runpytest_subprocess(
        *names, *size, *where, "--benchmark-json", "o.json"
    ).assert_outcomes(passed=1)
    (bench,) = json.loads((pytester.path / "o.json").read_text())["benchmarks"]
    record: dict[str, Any] = bench["extra_info"]["dnnbench"]
    return record


def ranks_in(trace: Path) -> set[int]:
    return {int(line) for line in trace.read_text().split()}


@pytest.mark.parametrize("model", ["resnet18", "mine"])
def test_a_model_that_replaces_ours_or_is_new_is_the_one_that_is_measured(
    pytester: pytest.Pytester, traces: Path, model: str
) -> None:
    record = measured(pytester, "hooked", model)
    assert record["case"]["model"] == model
    (rank,) = record["details"]
    assert rank["model"] == "tests.hooked:hooked_model"
    assert rank["pid"] in ranks_in(traces / "model"), "this factory made the timed rank's model"


def test_a_framework_from_a_hook_is_measured_by_its_worker(
    pytester: pytest.Pytester, traces: Path
) -> None:
    record = measured(pytester, "hooked", "mine")
    assert record["case"]["framework"] == "hooked"
    (rank,) = record["details"]
    assert rank["pid"] in ranks_in(traces / "framework")
    assert record["correctness"]["checked"] == [
        "loss in float32",
        "gradients in float32",
        "gradients",
        "buffers",
        "parameters",
    ]


def test_one_of_our_frameworks_measures_the_model_of_the_hook_too(
    pytester: pytest.Pytester, traces: Path
) -> None:
    measured(pytester, "single", "resnet18")
    assert len(ranks_in(traces / "model")) == 2, "the rank of the proof and that of the launch"
    assert not (traces / "framework").exists()
