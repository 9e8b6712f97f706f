"""An interrupted session is continued: what was measured is not measured again."""

import json
from pathlib import Path
from typing import Any

import pytest

CASES = """
def test_train(framework, model, gpus, process_group, dnnbench):
    dnnbench.measure(framework, model, process_group(gpus), phase="train")
"""
COUNTING = """
import os, pytest
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.controller.rank_launcher import MEASURE

launch, done = Ranks.launch, []

def counted(self, target, *arguments, **more):
    if target == MEASURE:
        if len(done) == int(os.environ.get("STOP_AFTER", 99)):
            raise KeyboardInterrupt
        done.append(target)
    return launch(self, target, *arguments, **more)

def pytest_configure():
    Ranks.launch = counted

def pytest_unconfigure():
    Ranks.launch = launch
    print("launches measured:", len(done))
"""
TINY = (
    "--gpus 2 --dnn-device cpu --dnn-models tests.tiny_models:tiny --dnn-batch-size 8"
    " --dnn-warmup 1"
)


def test_a_session_interrupted_in_its_second_round_is_finished_and_merged(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    pytester.makepyfile(test_cases=CASES)
    pytester.makeconftest(COUNTING)

    def run(*more: str) -> Any:
        return pytester.runpytest_subprocess(
            "-s", *TINY.split(), "--dnn-frameworks", "ddp", "--benchmark-json", "out.json", *more
        )

    monkeypatch.setenv("STOP_AFTER", "3")
    first = run("--dnn-steps", "3")
    assert first.ret == pytest.ExitCode.INTERRUPTED
    first.stdout.fnmatch_lines(["*continue with --dnn-resume*"])
    journal = pytester.path / ".benchmarks" / "dnnbench-journal.jsonl"
    kept = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    assert len(kept) == 3
    monkeypatch.delenv("STOP_AFTER")

    refused = run("--dnn-steps", "4", "--dnn-resume")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*the session in * was another one: steps: 3 then, 4 now.*"])

    second = run("--dnn-steps", "3", "--dnn-resume")
    second.assert_outcomes(passed=2)
    second.stdout.fnmatch_lines(["*3 launches taken from*", "launches measured: 3"])
    assert not journal.exists()
    records = [
        benchmark["extra_info"]["dnnbench"]
        for benchmark in json.loads((pytester.path / "out.json").read_text())["benchmarks"]
    ]
    assert [len(record["launches"]) for record in records] == [3, 3]
    ends = kept[0]["reports"][0]["step_end_s"]
    befores = [kept[0]["reports"][0]["window_start_s"], *ends]
    assert records[0]["launches"][0]["step_time_s"] == [
        end - start for start, end in zip(befores, ends, strict=False)
    ]
    assert all(record["correctness"]["checked"] for record in records)
