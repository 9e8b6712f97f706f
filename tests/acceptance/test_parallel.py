"""pytest-xdist: without --dnn-parallel nothing is timed; with it, one valid file comes of all
workers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_dnnbench.session.benchmark_file import pack, unpack
from tests.fake_launches import CONFTEST

CASES = """
def test_train(framework, model, gpus, process_group, dnnbench):
    dnnbench.measure(framework, model, process_group(gpus), phase="train")

def test_plain():
    assert True
"""
DIES = """
import os, pathlib

def pytest_runtest_logstart():  # of the last round only
    died = pathlib.Path("died")
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw1" and not died.exists():
        died.touch()
        os._exit(3)
"""
TINY = (
    "--gpus 2 --dnn-device cpu --dnn-models tests.tiny_models:tiny --dnn-batch-size 8 --dnn-steps 2"
    " --dnn-warmup 1"
)


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    monkeypatch.setenv("COLUMNS", "200")  # a range instead of a figure takes more room
    pytester.makepyfile(test_cases=CASES)
    return lambda *arguments: pytester.runpytest_subprocess(*TINY.split(), *arguments)


def test_workers_measure_and_one_file_is_saved(run: Any, pytester: pytest.Pytester) -> None:
    result = run(
        "-n",
        "2",
        "--dnn-parallel",
        "--dnn-frameworks",
        "single,ddp",
        "--benchmark-json",
        "out.json",
    )
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*single *1.00x*"])
    assert "nothing was timed" not in result.stdout.str()
    assert "automatically disabled" not in result.stderr.str()
    saved = json.loads((pytester.path / "out.json").read_text())
    assert len(saved["benchmarks"]) == 3
    for benchmark in saved["benchmarks"]:
        record = benchmark["extra_info"]["dnnbench"]
        assert record["run"]["parallel"] is True
        assert len(record["launches"]) == 3
        assert benchmark["stats"]["data"] == [
            time for launch in record["launches"] for time in launch["step_time_s"]
        ]
        assert {"speedup", "scaling_efficiency"} <= set(record["metrics"])
    command = [sys.executable, "-m", "pytest_benchmark", "compare", "out.json"]
    answer = subprocess.run(command, cwd=pytester.path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


def test_without_the_option_cases_are_proven_and_the_session_says_so(
    run: Any, pytester: pytest.Pytester
) -> None:
    result = run("-n", "2", "--dnn-frameworks", "single", "--benchmark-json", "out.json")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["dnnbench: nothing was timed under -n, only proven (1 case); *--dnn-parallel*"]
    )
    assert not (pytester.path / "out.json").exists()


def test_a_benchmark_survives_the_way_from_worker_to_controller(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(benchmark): benchmark.pedantic(int, rounds=3)")
    sessions: list[Any] = []

    class Spy:
        @staticmethod
        def pytest_sessionfinish(session: pytest.Session) -> None:
            sessions.append(session.config._benchmarksession)  # type: ignore[attr-defined] # what parallel.py uses

    pytester.inline_run("-p", "no:xdist", plugins=[Spy()])
    (kept,) = sessions[0].benchmarks
    again = unpack(pack(kept))
    assert again.as_dict() == json.loads(json.dumps(kept.as_dict()))
    assert again
    assert not again.has_error


def test_the_share_of_a_worker_that_dies_is_measured_by_another(
    run: Any, pytester: pytest.Pytester
) -> None:
    train = CASES.partition("def test_plain")[0]
    pytester.makepyfile(test_cases=train + train.replace("train", "validate"))
    pytester.makeconftest(CONFTEST + DIES)
    options = ("--gpus", "1", "--dnn-frameworks", "single,ddp")
    result = run(
        "-n", "2", "--dnn-parallel", "--dnn-launches", "2", *options, "--benchmark-json", "out.json"
    )
    benchmarks = json.loads((pytester.path / "out.json").read_text())["benchmarks"]
    kept = [benchmark["extra_info"]["dnnbench"] for benchmark in benchmarks]
    assert [len(record["launches"]) for record in kept] == [2, 2, 2]
    result.stdout.fnmatch_lines(["*worker 'gw1' crashed while running*"])
    result.assert_outcomes(passed=3, failed=1)


def test_two_sessions_take_turns_on_the_cores(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).resolve().parents[2]
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("DNNBENCH_LEASE_DIR", str(pytester.path / "leases"))
    pytester.makepyfile(
        test_alone="""
        import pytest
        from tests.rank import programs

        @pytest.mark.parametrize("number", range(4))
        def test_alone(number, process_group, request):
            process_group(2).run(programs.alone, str(request.config.rootpath))
        """
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--dnn-device",
        "cpu",
    ]
    sessions = [
        subprocess.Popen(command, cwd=pytester.path, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for session in sessions:
        output, _ = session.communicate()
        assert session.returncode == 0, output


def test_a_distributed_session_is_not_continued(run: Any) -> None:
    result = run("-n", "2", "--dnn-resume")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--dnn-resume continues sessions without -n only*"])
