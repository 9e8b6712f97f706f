"""The main job as a user runs it: real ranks, real training, pytest-benchmark's file."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.digits import write_pair
from tests.fake_launches import CONFTEST
from tests.patience import TIME_OUTS_S

CASES = """
def test_train(framework, model, gpus, process_group, dnnbench):
    dnnbench.measure(framework, model, process_group(gpus), phase="train")

def test_validate(framework, model, gpus, process_group, dnnbench):
    dnnbench.measure(framework, model, process_group(gpus), phase="validate")
"""
GUARD = """
import sys

def pytest_unconfigure():
    assert "torch" not in sys.modules
"""
TINY = (
    "--dnn-device",
    "cpu",
    "--dnn-models",
    "tests.tiny_models:tiny",
    "--dnn-batch-size",
    "8",
    "--dnn-steps",
    "3",
    "--dnn-warmup",
    "1",
)


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the cases in a process of their own, which must never import torch."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    pytester.makeconftest(GUARD)
    pytester.makepyfile(test_cases=CASES)
    return lambda *arguments: pytester.runpytest_subprocess("--gpus", "2", *TINY, *arguments)


def records(path: Path) -> dict[str, dict[str, Any]]:
    saved = json.loads(path.read_text())
    return {
        bench["name"]: bench["extra_info"]["dnnbench"] | {"stats": bench["stats"]}
        for bench in saved["benchmarks"]
    }


def test_cases_are_listed_by_readable_ids_without_torch(run: Any) -> None:
    listed = run(
        "--collect-only", "-q", "--dnn-models", "resnet50", "--dnn-frameworks", "single,ddp"
    )
    names = [line.split("::")[1] for line in listed.outlines if "::" in line]
    assert names == [
        "test_train[single-resnet50-1gpu]",
        "test_train[ddp-resnet50-1gpu]",
        "test_train[ddp-resnet50-2gpu]",
        "test_validate[single-resnet50-1gpu]",
        "test_validate[ddp-resnet50-1gpu]",
        "test_validate[ddp-resnet50-2gpu]",
    ]


def test_the_table_compares_frameworks(pytester: pytest.Pytester) -> None:
    """Launches are made up: where all were disturbed, a range takes the place of each figure, and a
    narrow terminal has no room for every column."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_cases=CASES)
    options = ("--gpus", "2", *TINY, "--dnn-frameworks", "single,ddp", "-k", "train")
    result = pytester.runpytest_inprocess(*options)
    result.stdout.fnmatch_lines(
        [
            "*framework*GPUs*img/s*speed-up*eff.*alloc*",
            "*single * 1 *1.00x*100%*",
            "*ddp * 2 *x*%*",
            "*memory: peak MiB of a*",
        ]
    )


def test_the_file_holds_every_field_of_the_contract(run: Any, pytester: pytest.Pytester) -> None:
    options = ("--dnn-frameworks", "single,ddp", "--dnn-warmup", "auto")
    run(*options, "--benchmark-json", "out.json").assert_outcomes(passed=6)
    command = [sys.executable, "-m", "pytest_benchmark", "compare", "out.json"]
    answer = subprocess.run(command, cwd=pytester.path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "test_train" in answer.stdout
    by_case = records(pytester.path / "out.json")
    record = by_case["test_train[ddp-tests.tiny_models:tiny-2gpu]"]
    assert record["schema"] == 1
    assert {
        "framework",
        "model",
        "gpus",
        "phase",
        "dataset",
        "batch_size",
        "image_size",
        "precision",
        "scaling",
        "device",
        "seed",
        "options",
        "sequence_length",
        "form",
        "nodes",
        "shape",
    } == set(record["case"])
    assert record["run"] == {
        "sample": "img",
        "samples_per_update": 16,
        "oversubscribed": False,
        "steps": 3,
        "warmup": record["run"]["warmup"],
        "data": {"source": "synthetic"},
    }
    # Of the machine, where its kernel lets it be read.
    assert set(record["metrics"]) - {"energy_per_sample_j"} == {
        *(
            "throughput",
            "step_time_s",
            "resident_peak_bytes",
            "speedup",
            "scaling_efficiency",
            "loss",
        ),
        "yardstick_s",
    }
    assert record["metrics"]["yardstick_s"]["per_launch"] == [
        launch["conditions"]["yardstick_s"] for launch in record["launches"]
    ]
    assert record["metrics"]["yardstick_s"]["value"] > 0
    for metric in record["metrics"].values():
        # "per_rank" is there where ranks differ, "disturbed" where others used the machine.
        rest = set(metric) - {"per_rank", "disturbed"}
        assert rest == {"value", "unit", "better", "per_launch"}
        assert len(metric["per_launch"]) == 3
    assert [len(launch["step_time_s"]) for launch in record["launches"]] == [3, 3, 3]
    flat = [time for launch in record["launches"] for time in launch["step_time_s"]]
    assert record["stats"]["data"] == flat
    assert {"torch", "cpu", "threads_per_rank"} <= set(record["environment"]["must_match"])
    assert record["correctness"]["largest_deviation"].keys() == {
        "loss in float32",
        "gradients in float32",
        "gradients",
        "parameters",
        "buffers",
    }
    assert record["correctness"]["took_s"] > 0
    assert {"thresholds", "plan", "verdict"} <= set(record)
    slowest_s = [max(launch["rank_wall_s"]) for launch in record["launches"]]
    rates = record["metrics"]["throughput"]["per_launch"]
    assert rates == pytest.approx([2 * 8 * 3 / wall_s for wall_s in slowest_s])
    # Each step counts its slowest rank, so together they are no less than any rank's time but for
    # the clock's reading.
    assert all(
        sum(launch["step_time_s"]) > 0.5 * wall_s
        for launch, wall_s in zip(record["launches"], slowest_s, strict=True)
    )


def test_digits_are_learnt_and_the_split_is_on_record(run: Any, pytester: pytest.Pytester) -> None:
    write_pair(pytester.path, "t10k", 1400, compress=True)
    mnist = (
        "--dnn-dataset",
        "mnist",
        "--dnn-data-dir",
        ".",
        "--dnn-batch-size",
        "32",
        "--dnn-steps",
        "40",
    )
    result = run(
        *mnist,
        "--dnn-frameworks",
        "ddp",
        "--dnn-launches",
        "1",
        "-k",
        "train",
        "--benchmark-json",
        "out.json",
    )
    result.assert_outcomes(passed=2, deselected=2)
    for record in records(pytester.path / "out.json").values():
        loss = record["launches"][0]["loss"]
        assert sum(loss[-5:]) < 0.7 * sum(loss[:5])
        assert record["metrics"]["validation_accuracy"]["value"] > 0.5
        assert "cut from the 1400-image set" in record["run"]["data"]["split"]


def test_a_wrong_step_fails_its_case_alone_and_is_not_recorded(
    run: Any, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest(
        GUARD
        + "from pytest_dnnbench.catalog import FrameworkSpec\n"
        + "def pytest_dnnbench_frameworks():\n"
        + "    worker = 'tests.rank.broken_workers:NoAllReduce'\n"
        + "    return [FrameworkSpec('broken', worker, '', min_gpus=2)]\n"
    )
    options = ("--dnn-frameworks", "single,broken", "--dnn-launches", "1", "-k", "train")
    result = run(*options, "--benchmark-json", "out.json")
    result.assert_outcomes(passed=1, failed=1, deselected=2)
    result.stdout.fnmatch_lines(
        ["*WrongResult: broken-*the step is wrong, so it was not timed: *rank 0: gradients*"]
    )
    assert list(records(pytester.path / "out.json")) == [
        "test_train[single-tests.tiny_models:tiny-1gpu]"
    ]


def test_a_loss_that_is_no_number_is_no_result_and_is_told_once(run: Any) -> None:
    diverging = ("--dnn-models", "tests.tiny_models:Diverging", "-k", "train", "-rN")
    result = run("--dnn-frameworks", "single", "--dnn-warmup", "6", *diverging)
    result.assert_outcomes(failed=1, deselected=1)
    result.stdout.fnmatch_lines(["*the loss of step [0-9]* is nan: the run diverged*"])
    assert result.stdout.str().count("WrongResult: rank 0") == 1


def test_a_hanging_case_fails_in_time_and_the_session_goes_on(
    run: Any, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(
        test_cases="""
        from tests.rank import programs

        def test_hangs(process_group):
            process_group(2).run(programs.hang_on, 1)

        def test_goes_on(process_group):
            assert process_group(2).run(programs.sum_of_ranks) == [1, 1]
        """
    )
    for timeout_s in TIME_OUTS_S[1:]:  # until ranks get as far as the hang, and the others end
        result = run("--dnn-timeout", f"{timeout_s:g}")
        if result.parseoutcomes() == {"passed": 1, "failed": 1}:
            break
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([f"*did not finish within {timeout_s:g} s*", "*in sleep_forever*"])


def test_a_traceback_is_shown_once(run: Any, pytester: pytest.Pytester) -> None:
    """What the rank wrote beside it stays."""
    pytester.makepyfile(
        own_models="""
        import sys

        def broken():
            print("about to fail", file=sys.stderr)
            raise KeyError("no such block")
        """
    )
    result = run(
        "--dnn-frameworks", "single", "--dnn-models", "own_models:broken", "-k", "train", "-rN"
    )
    result.assert_outcomes(failed=1, deselected=1)
    assert result.stdout.str().count("Traceback (most recent call last)") == 1
    assert result.stdout.str().count("about to fail") == 1


def test_without_timing_cases_run_and_nothing_is_recorded(
    run: Any, pytester: pytest.Pytester
) -> None:
    result = run(
        "--dnn-frameworks", "single,ddp", "--benchmark-disable", "--benchmark-json", "out.json"
    )
    result.assert_outcomes(passed=6)
    assert not (pytester.path / "out.json").exists()
    assert "img/s" not in result.stdout.str()


def test_a_framework_that_is_not_installed_is_skipped_with_its_command(
    run: Any, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest(
        "from pytest_dnnbench.catalog import FrameworkSpec\n"
        "def pytest_dnnbench_frameworks():\n"
        "    missing = ('no_such_module',)\n"
        "    return [FrameworkSpec('absent', 'x:Y', '', requires=missing, install='make absent')]\n"
    )
    result = run("--dnn-frameworks", "absent", "-k", "train", "-rs")
    result.assert_outcomes(skipped=2, deselected=2)
    result.stdout.fnmatch_lines(
        ["*absent needs no_such_module, which is not installed: run `make absent`*"]
    )


def test_oversubscription_is_marked(run: Any, pytester: pytest.Pytester) -> None:
    run("--dnn-frameworks", "ddp", "--gpus", "65", "--collect-only", "-q").stdout.fnmatch_lines(
        ["*-65gpu*"]
    )
    from pytest_dnnbench.controller.machine import Machine

    machine = Machine("cpu", (), None, cores=2, cpu="", why="", memory_bytes=2**34)
    assert (machine.oversubscribed(2), machine.oversubscribed(3)) == (False, True)
    assert machine.shortage(3) is None
    assert machine.shortage(257) == (
        "257 CPU ranks need 16 GiB of memory at least, and this machine has 16"
    )
    assert Machine("cuda", (), None, 2, "", "").shortage(3) == "3 GPUs needed and 0 here"
