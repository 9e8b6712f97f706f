"""--dnn-shapes: which frameworks run which shapes, how cases are called, what is refused, and that
a sweep over shapes measures, records and reports each."""

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_dnnbench.catalog import Catalog, FrameworkSpec
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.report.exports import openmetrics, points
from pytest_dnnbench.report.paste import csv_table
from pytest_dnnbench.report.reproduce import command
from pytest_dnnbench.report.rows import sections
from pytest_dnnbench.report.runs import read_run
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.shape import shape_of
from tests.fake_launches import CONFTEST
from tests.session.test_refusals import refusal

CASES = """
import pytest

@pytest.mark.parametrize("phase", ["train"])
def test_train(framework, model, gpus, phase, process_group, dnnbench):
    dnnbench.measure(framework, model, process_group(gpus), phase=phase)
"""
GPT = "tests.own_workloads:small_gpt"


@pytest.mark.parametrize(
    ("shape", "framework", "options"),
    [
        ("dp4", "ddp", {}),
        ("dp1", "single", {}),
        ("tp2xdp2", "tp", {"ranks": 2}),
        ("tp4", "tp", {"ranks": 4}),
        ("pp2xdp2", "1f1b", {"stages": "2"}),
        ("pp4", "pipedream", {"stages": "4"}),
        ("dp2", "tp", None),
        ("dp2", "1f1b", None),
        ("dp2", "single", None),
        ("tp2", "ddp", None),
        ("pp2xtp2", "tp", None),
    ],
)
def test_a_framework_runs_shapes_of_its_axes(
    shape: str, framework: str, options: dict[str, object] | None
) -> None:
    assert Catalog().framework(framework).options_of(shape_of(shape)) == options


@pytest.mark.parametrize("axes", [{"ep": ""}, {"dp": "", "tp": "width"}])
def test_an_axis_is_one_that_there_is_with_an_option_that_there_is(axes: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"the framework mine has the axis '(ep|tp)'"):
        FrameworkSpec("mine", "m:W", "", axes=axes)


def test_a_framework_without_axes_runs_no_shape() -> None:
    assert FrameworkSpec("mine", "m:W", "").options_of(shape_of("dp2")) is None


def collected(pytester: pytest.Pytester, *arguments: str) -> list[str]:
    """The ids of the cases."""
    pytester.makepyfile(CASES)
    result = pytester.runpytest_inprocess("--collect-only", "-q", "--dnn-models=mlp", *arguments)
    assert result.ret == 0
    return [line.partition("[")[2].rstrip("]") for line in result.outlines if "[" in line]


def test_each_shape_is_a_case_on_its_own_number_of_gpus(pytester: pytest.Pytester) -> None:
    assert collected(pytester, "--dnn-shapes=dp2,dp2xtp2,pp2xdp2,dp4") == [
        "ddp-mlp-2gpu-dp2-train",
        "ddp-mlp-4gpu-dp4-train",
        "tp-mlp-4gpu-tp2xdp2-train",
        "1f1b-mlp-4gpu-pp2xdp2-train",
    ]


def test_named_frameworks_run_the_shapes_that_they_can(pytester: pytest.Pytester) -> None:
    arguments = ("--dnn-frameworks=single,fsdp,gpipe", "--dnn-shapes=dp1,dp4,pp4", "--gpus=4")
    assert collected(pytester, *arguments) == [
        "single-mlp-1gpu-dp1-train",
        "fsdp-mlp-1gpu-dp1-train",
        "fsdp-mlp-4gpu-dp4-train",
        "gpipe-mlp-4gpu-pp4-train",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--dnn-shapes pp2y", "--dnn-shapes: 'pp2y' is no shape: write pp, tp, dp"),
        ("--dnn-shapes dp2,dp2", "--dnn-shapes has dp2 twice"),
        (
            "--dnn-shapes dp3 --gpus 4",
            "--dnn-shapes dp3 takes 3 GPUs, and the session runs on 1, 2",
        ),
        ("--dnn-shapes pp2xtp2", "--dnn-shapes pp2xtp2: no framework has pp and tp together"),
        (
            "--dnn-shapes tp2 --dnn-frameworks ddp",
            "--dnn-shapes tp2: not run by ddp: add one of tp",
        ),
        (
            "--dnn-shapes dp2 --dnn-frameworks ddp,tp",
            "tp runs shapes with tp, and --dnn-shapes has dp2: leave it out",
        ),
        (
            "--dnn-shapes dp2 --dnn-frameworks ddp,single",
            "single runs dp1, and --dnn-shapes has dp2: leave it out",
        ),
        (
            "--dnn-shapes tp2 --dnn-tp-ranks 2",
            "--dnn-shapes tp2 and --dnn-tp-ranks 2 both say it: leave one of them out",
        ),
        (
            "--dnn-shapes dp2,tp2 --dnn-models resnet18",
            "tp cannot train resnet18: it splits the linear layers of transformers, and this model",
        ),
        (
            "--dnn-frameworks ddp,tp --dnn-models vit_b_16,vgg11",
            "tp cannot train vgg11: it splits the linear layers of transformers",
        ),
        (
            "--dnn-shapes pp2xdp2 --dnn-microbatches 3",
            "3 microbatches do not divide over 2 replicas of the pipeline",
        ),
        (
            "--dnn-shapes pp2xdp2,pp4 --dnn-frameworks gpipe --dnn-schedule-replicas fsdp",
            "--dnn-shapes pp4: gpipe does not run it with --dnn-schedule-replicas fsdp: leave one",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    pytester: pytest.Pytester, arguments: str, message: str
) -> None:
    pytester.makepyfile(CASES)
    assert message in refusal(pytester, *arguments.split())


OTHERS = """
def test_other_ranks(framework, gpus, process_group, dnnbench):
    dnnbench.measure(framework, "mlp", process_group(1), phase="train")

def test_other_framework(framework, gpus, process_group, dnnbench):
    dnnbench.measure("ddp", "mlp", process_group(gpus), phase="train")

def test_own_option(framework, gpus, process_group, dnnbench):
    dnnbench.measure(framework, "mlp", process_group(gpus), phase="train", options={"ranks": 2})
"""


def test_a_test_that_measures_something_else_fails_in_a_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(OTHERS)
    pytester.makeconftest(CONFTEST)
    result = pytester.runpytest_inprocess("--dnn-shapes=tp2", "--dnn-device=cpu")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines([
        "*shape of this case is tp2, and the test measures on 1 rank: give process_group(gpus)",
        "*shape of this case is tp2, which ddp does not run",
        "*shape of this case, tp2, sets 'ranks', and so does the test: leave it out*",
    ])  # fmt: skip


def test_a_shape_runs_on_real_ranks(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    pytester.makepyfile(CASES)
    words = f"--dnn-shapes=tp2xdp2,pp2xdp2 --dnn-models={GPT} --dnn-device=cpu --benchmark-disable"
    pytester.runpytest_subprocess(*words.split()).assert_outcomes(passed=2)


def test_a_sweep_measures_records_and_reports_each_shape(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(CASES)
    file = pytester.path / "out.json"
    result = pytester.runpytest_inprocess(
        *f"--dnn-shapes=dp2,tp2,tp2xdp2,pp2xdp2 --dnn-models={GPT} --dnn-launches=1".split(),
        *f"--dnn-steps=2 --dnn-warmup=1 --dnn-device=cpu --benchmark-json={file}".split(),
    )
    result.assert_outcomes(passed=4)
    rows: dict[str, Any] = {}
    for benchmark in json.loads(file.read_text())["benchmarks"]:
        case = benchmark["extra_info"]["dnnbench"]["case"]
        rows[case["shape"]] = (case["framework"], case["gpus"])
        assert benchmark["name"].endswith(f"-{case['gpus']}gpu-{case['shape']}-train]")
    assert rows == {
        "dp2": ("ddp", 2),
        "tp2": ("tp", 2),
        "tp2xdp2": ("tp", 4),
        "pp2xdp2": ("1f1b", 4),
    }
    run = read_run(file)
    study = Study([run])
    assert ",tp2xdp2," in csv_table(sections(study), study)
    assert 'shape="pp2xdp2"' in openmetrics(points([run])[0])["openmetrics.txt"]
    words = {each.case.shape: command(each) for each in run.results}
    assert "--dnn-shapes tp2xdp2 --dnn-frameworks tp " in words["tp2xdp2"]
    assert "--dnn-tp-ranks" not in words["tp2xdp2"]
    assert "--dnn-stages 2" not in words["pp2xdp2"]
    result.stdout.fnmatch_lines(["*framework*shape*GPUs*", "*tp2xdp2*"])


def test_a_model_that_an_unnamed_framework_cannot_train_is_skipped(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(CASES)
    words = "--dnn-frameworks=all --dnn-models=resnet18 --dnn-device=cpu -k tp-resnet18-2gpu -rs"
    result = pytester.runpytest_inprocess(*words.split())
    assert result.parseoutcomes()["skipped"] == 1
    assert "passed" not in result.parseoutcomes()
    result.stdout.fnmatch_lines(["*tp cannot train resnet18: it splits*"])
