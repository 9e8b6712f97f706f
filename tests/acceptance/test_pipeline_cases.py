"""Pipelines among the cases of a session, as a user runs them."""

from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_main_job import CASES, records, run  # noqa: F401 - run is a fixture
from tests.digits import write_pair

MODEL = "tests.pipeline.models:residual"


@pytest.fixture
def pipelines(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:  # noqa: F811 - the fixture above
    """Runs the cases with a small model that has places to cut; profiles are kept in the test's
    folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return lambda *arguments: run("--dnn-models", MODEL, "--dnn-launches", "2", *arguments)


def test_pipelines_stand_beside_the_other_frameworks(
    pipelines: Any, pytester: pytest.Pytester
) -> None:
    result = pipelines(
        "--dnn-frameworks",
        "single,pipedream",
        "--dnn-bandwidth",
        "1e12",
        "--benchmark-json",
        "o.json",
    )
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(
        ["*pipedream * 2 *x*", "plans (replicas of each stage)", "*pipedream*, 2 GPUs, train: *"]
    )
    made = records(pytester.path / "o.json")
    assert {name.partition("[")[2] for name in made} >= {
        f"pipedream-{MODEL}-1gpu]",
        f"pipedream-{MODEL}-2gpu]",
    }
    record = made[f"test_train[pipedream-{MODEL}-2gpu]"]
    assert record["plan"]["decided_by"] == "planner"
    assert {"bubble_fraction", "bubble_fraction_ideal", "speedup"} <= set(record["metrics"])
    plan = record["plan"]
    assert plan["predicted_step_time_s"] > 0
    assert plan["profile_parts_over_whole"] > 0
    assert plan["bandwidth_bytes_s"] == 1e12
    assert plan["measured_step_time_s"] > 0
    assert sum(stage["replicas"] for stage in plan["plan"]["stages"]) == len(plan["ranks"]) == 2
    for rank in plan["ranks"]:
        assert rank["peak_bytes"] > rank["stash_bytes"] >= 0
        assert rank["planned_memory_bytes"] > 0
    assert record["case"]["batch_size"] == 8
    assert record["run"]["samples_per_update"] == 8 * max(
        stage["replicas"] for stage in plan["plan"]["stages"]
    )
    speedup = record["metrics"]["throughput"]["per_launch"][0]
    single = made[f"test_train[single-{MODEL}-1gpu]"]["metrics"]["throughput"]["per_launch"][0]
    assert record["metrics"]["speedup"]["per_launch"][0] == pytest.approx(speedup / single)


def test_a_forced_shape_runs_on_the_counts_that_it_fills(
    pipelines: Any, pytester: pytest.Pytester
) -> None:
    write_pair(pytester.path, "t10k", 1400, compress=True)
    mnist = (
        "--dnn-dataset",
        "mnist",
        "--dnn-data-dir",
        ".",
        "--dnn-batch-size",
        "32",
        "--dnn-steps",
        "20",
    )
    shape = (
        "--gpus",
        "3",
        "--dnn-stages",
        "2-1",
        "--dnn-frameworks",
        "single,pipedream",
        "-k",
        "train",
    )
    result = pipelines(*mnist, *shape, "--dnn-launches", "1", "--benchmark-json", "o.json")
    result.assert_outcomes(passed=2, deselected=2)
    record = records(pytester.path / "o.json")[f"test_train[pipedream-{MODEL}-3gpu]"]
    assert [stage["replicas"] for stage in record["plan"]["plan"]["stages"]] == [2, 1]
    assert record["plan"]["decided_by"] == "user"
    assert [rank["versions_kept"] for rank in record["plan"]["ranks"]] == [2, 2, 1]
    launch = record["launches"][0]
    loss = launch["loss"]
    assert len(loss) == launch["warmup_steps"] + len(launch["step_time_s"])
    assert sum(loss[-5:]) < sum(loss[:5])
    assert 0 < record["metrics"]["validation_accuracy"]["value"] <= 1
    assert "cut from the 1400-image set" in record["run"]["data"]["split"]


def test_the_variants_are_named_to_be_run_and_step_by_updates(
    pipelines: Any, pytester: pytest.Pytester
) -> None:
    listed = pipelines("--collect-only", "-q")
    assert "pipedream-tests" in listed.stdout.str()
    assert "pipedream-flush" not in listed.stdout.str()
    assert (
        "pipedream-flush"
        in pipelines("--collect-only", "-q", "--dnn-frameworks", "all").stdout.str()
    )
    named = (
        "--dnn-frameworks",
        "pipedream-2bw,pipedream-flush",
        "--dnn-stages",
        "2",
        "-k",
        "train",
    )
    pipelines(*named, "--dnn-launches", "1", "--benchmark-json", "o.json").assert_outcomes(
        passed=2, deselected=2
    )
    made = records(pytester.path / "o.json")
    assert {name: record["run"]["samples_per_update"] for name, record in made.items()} == {
        f"test_train[pipedream-2bw-{MODEL}-2gpu]": 16,
        f"test_train[pipedream-flush-{MODEL}-2gpu]": 16,
    }
    flush = made[f"test_train[pipedream-flush-{MODEL}-2gpu]"]["metrics"]
    assert flush["bubble_fraction_ideal"]["value"] == pytest.approx(1 / 3)


def test_schedules_of_torch_are_named_to_be_run_over_the_same_cuts(
    pipelines: Any, pytester: pytest.Pytester
) -> None:
    write_pair(pytester.path, "t10k", 1400, compress=True)
    mnist = ("--dnn-dataset", "mnist", "--dnn-data-dir", ".", "--dnn-batch-size", "16")
    named = ("--dnn-frameworks", "bfs,zbv", "--gpus", "2", "-k", "train", "--dnn-launches", "1")
    result = pipelines(*mnist, *named, "--dnn-microbatches", "4", "--benchmark-json", "o.json")
    result.assert_outcomes(passed=2, deselected=2)
    made = records(pytester.path / "o.json")
    cuts = set()
    for name in ("bfs", "zbv"):
        record = made[f"test_train[{name}-{MODEL}-2gpu]"]
        assert record["run"]["samples_per_update"] == 4 * 16
        assert 0 < record["metrics"]["bubble_fraction_ideal"]["value"] < 1
        assert 0 < record["metrics"]["bubble_fraction"]["value"] < 1
        assert 0 < record["metrics"]["validation_accuracy"]["value"] <= 1
        assert record["plan"]["shape"] == "1-1 x2"
        cuts.add(tuple(tuple(stage["operators"]) for stage in record["plan"]["plan"]["stages"]))
    assert all(len(each) == 4 for each in cuts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--dnn-stages", "2-1"),
            "pipedream with --dnn-stages 2-1 fits none of the device counts 1, 2: change it",
        ),
        (
            ("--dnn-stages", "two"),
            "stages 'two': write a number of stages, or replicas of each as in 2-1, or auto",
        ),
        (("--dnn-microbatches", "-1"), "--dnn-microbatches is -1: give at least 1"),
        (("--dnn-bandwidth", "inf"), "--dnn-bandwidth is inf: give bytes per second"),
        (("--dnn-plan", "nowhere.json"), "plan nowhere.json cannot be read"),
        (
            ("--gpus", "3", "--dnn-stages", "3", "--dnn-microbatches", "1"),
            "2BW on 1-1-1 needs at least 2 microbatches",
        ),
        (
            ("--dnn-frameworks", "dualpipev", "--dnn-microbatches", "3"),
            "dualpipev on pipelines of 2 ranks needs at least 4 microbatches, not 3",
        ),
    ],
)
def test_bad_options_are_refused_before_anything_starts(
    pytester: pytest.Pytester, arguments: tuple[str, ...], message: str
) -> None:
    pytester.makepyfile(test_cases=CASES)
    options = ("--gpus", "2", "--dnn-device", "cpu", "--dnn-models", MODEL)
    named = ("--dnn-frameworks", "pipedream,pipedream-2bw")
    result = pytester.runpytest_inprocess(*options, *named, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    lines = [line for line in (*result.outlines, *result.errlines) if message in line]
    assert len(lines) == 1, (result.outlines, result.errlines)


def test_a_model_with_too_few_places_to_cut_fails_its_case_in_one_line(pipelines: Any) -> None:
    two_layers = (
        "--dnn-models",
        "tests.pipeline.models:two_layers",
        "--gpus",
        "4",
        "--dnn-stages",
        "4",
    )
    named = ("--dnn-frameworks", "single,pipedream", "-k", "train", "--dnn-launches", "1")
    result = pipelines(*named, *two_layers)
    result.assert_outcomes(passed=1, failed=1, deselected=2)
    result.stdout.fnmatch_lines(
        ["*PlanError: rank 0: 4 stages, but the model can be cut into * at most: ask for fewer*"]
    )


def test_a_workload_that_a_pipeline_cannot_train_skips_cases_that_nobody_named(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gpt-nano clips its gradients, and pipedream's stages step at different times."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    pytester.makepyfile(
        test_cases="""
        def test_train(framework, gpus, process_group, dnnbench):
            dnnbench.measure(framework, "gpt-nano", process_group(gpus), phase="train")
        """
    )
    options = ("--dnn-device=cpu", "--dnn-gpu-counts=2", "--benchmark-disable", "-rs")
    result = pytester.runpytest_subprocess(*options, "-k", "pipedream")
    result.assert_outcomes(skipped=1, deselected=2)
    result.stdout.fnmatch_lines(["*SKIPPED*limits the norm of all gradients (1.0)*"])
    named = pytester.runpytest_subprocess(*options, "--dnn-frameworks=pipedream")
    named.assert_outcomes(failed=1)
    named.stdout.fnmatch_lines(["WorkloadRefused: *limits the norm of all gradients (1.0)*"])
