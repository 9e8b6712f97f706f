"""Sessions in forms: what a user asks for shows in ids, tables and records, and forms are not
compared with each other."""

import re
from pathlib import Path

import pytest

from pytest_dnnbench.results.baselines.comparability import differences, facts_of
from pytest_dnnbench.results.records.saved import read_saved

ROOT = Path(__file__).resolve().parents[2]
CASES = """
def test_train(framework, model, gpus, process_group, dnnbench):
    dnnbench.measure(framework, model, process_group(gpus), phase="train")

def test_own(process_group, dnnbench):
    dnnbench.measure("single", "tests.tiny_models:tiny", process_group(1), phase="train")
"""
SMALL = (
    *("--dnn-device=cpu", "--dnn-gpu-counts=1", "--dnn-launches=1", "--dnn-steps=2"),
    *("--dnn-warmup=1", "--dnn-batch-size=4", "--dnn-models=tests.tiny_models:tiny"),
)
FORM = ("--dnn-memory-format=channels_last", "--dnn-fused", "--dnn-accumulate=2")
LABEL = "channels_last-fused-accumulate2"
TRAINED = f"test_cases.py::test_train[single-tests.tiny_models:tiny-1gpu-{LABEL}]"


def test_a_form_is_in_ids_tables_and_records_and_is_not_compared_with_another(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(test_cases=CASES)
    formed = pytester.path / "formed.json"
    chosen = ("-k", "single or pipedream or own")
    result = pytester.runpytest_subprocess(
        *SMALL, *FORM, f"--benchmark-json={formed}", "-rs", *chosen
    )
    # All frameworks are there by default; a pipeline accumulates in another way.
    result.stdout.fnmatch_lines([f"form of the steps: {LABEL}"])
    result.stdout.fnmatch_lines(
        ["*SKIPPED*pipedream takes no --dnn-accumulate: pipelines have an option of their own*"]
    )
    cases = read_saved(formed).cases
    for name in (TRAINED, "test_cases.py::test_own"):
        record = cases[name]
        assert record.trained_case.form.label == LABEL
        assert record.run.samples_per_update == 8
        assert record.correctness.about["form"] == LABEL

    plain = pytester.path / "plain.json"
    result = pytester.runpytest_subprocess(
        *SMALL,
        "--dnn-frameworks=single",
        f"--dnn-baseline={formed}",
        f"--benchmark-json={plain}",
    )
    result.stdout.fnmatch_lines(["*form.accumulate: 2 -> 1*"])
    record = read_saved(plain).cases["test_cases.py::test_own"]
    assert record.verdict.status == "incomparable"
    unlike = differences(facts_of(cases["test_cases.py::test_own"]), facts_of(record), ())
    assert {each.fact for each in unlike if each.fact.startswith("form.")} == {
        "form.accumulate",
        "form.fused",
        "form.memory_format",
    }


def test_a_compiled_step_is_proven_and_its_compilation_shared(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For real, with GCC, which notes itself what it compiles."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    compiled = pytester.path / "compiled.d"
    monkeypatch.setenv("DEPENDENCIES_OUTPUT", str(compiled))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    pytester.makepyfile(test_cases=CASES)
    saved = pytester.path / "compiled.json"
    pytester.runpytest_subprocess(
        *SMALL,
        "--dnn-frameworks=ddp",
        "--dnn-launches=2",
        "--dnn-compile",
        f"--benchmark-json={saved}",
        *("-k", "test_train"),
    ).assert_outcomes(passed=1, deselected=1)
    name = "test_cases.py::test_train[ddp-tests.tiny_models:tiny-1gpu-compile]"
    record = read_saved(saved).cases[name]
    about = record.correctness.about
    assert about["compiled"] == "the step in float32; float64 runs as the model is written"
    assert about["compiled graphs"] == 1
    assert min(record.metrics["compile_s"].per_launch) > 0
    # The second launch finds the kernels of the first.
    kernels = re.findall(r"^(\w+)\.main\.o:", compiled.read_text(), re.MULTILINE)
    assert kernels
    assert len(set(kernels)) == len(kernels)
    assert record.launches[0].warmup_steps == 2  # the step that compiles, and the one asked for
