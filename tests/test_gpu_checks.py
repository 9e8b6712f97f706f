"""What needs a GPU is tried out on CPU ranks: the checks of tests/gpu, and the programs around
them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_all
from benchmarks.gpu_all import Program, programs
from tests.gpu.outcomes import NOT_RUN, Outcomes

ROOT = Path(__file__).resolve().parents[1]


def checked(folder: Path, *words: str) -> tuple[str, dict[str, Any]]:
    """What a run of tests/gpu on CPU ranks prints, and the outcomes that it writes, by the end of
    a check's name."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "tests/gpu", "-q", "-p", "no:cacheprovider"),
            *("--gpu-tests-on", "cpu", "--gpu-folder", str(folder), *words),
        ],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "DNNBENCH_NO_SKIPS"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    written = json.loads((folder / "gpu-test.json").read_text())
    return done.stdout, {each["check"].partition("::")[2]: each for each in written["checks"]}


def test_checks_run_on_cpu_ranks_and_their_outcomes_are_written(tmp_path: Path) -> None:
    """The same code as on a GPU: a wrong name in it is found here."""
    chosen = "proven_and_timed[fsdp] or proven_and_timed[1f1b] or proven_and_timed[flush]"
    printed, outcomes = checked(tmp_path, "-k", chosen)
    assert {each["outcome"] for each in outcomes.values()} == {"passed"}, printed
    assert len(outcomes) == 3
    for each in outcomes.values():
        assert each["figures"]["throughput"] > 0
        assert each["figures"]["proof_s"] > 0
        assert each["seconds"] > each["figures"]["proof_s"]
    assert "3 passed, 0 failed" in (tmp_path / "gpu-test.md").read_text()


def test_what_does_not_fit_into_the_budget_is_listed_as_not_run(tmp_path: Path) -> None:
    printed, outcomes = checked(tmp_path, "--gpu-budget", "0")
    assert len(outcomes) > 30
    not_run = {name for name, each in outcomes.items() if each["outcome"] == NOT_RUN}
    others = {each["message"] for name, each in outcomes.items() if name not in not_run}
    assert others <= {"Skipped: needs a GPU: it has no form on CPU ranks"}
    name = "test_a_framework_is_proven_and_timed[fsdp]"
    assert outcomes[name]["message"].startswith(
        "Skipped: not run: it takes about 10 s, and 0 s are"
    )
    assert f"not run: tests/gpu/test_frameworks.py::{name}" in printed


def test_outcomes_are_there_before_the_first_check_and_keep_messages_whole(tmp_path: Path) -> None:
    outcomes = Outcomes(tmp_path, {"machine": "a | b"})
    outcomes.expect(["one", "another"])
    assert [each.check for each in outcomes.left] == ["one", "another"]
    failed = outcomes.of("one")
    failed.outcome, failed.message = "failed", "rank 1 raised\n```\n" + "x" * 100_000
    outcomes.write()
    text = (tmp_path / "gpu-test.md").read_text()
    assert "0 passed, 1 failed, 0 skipped, 1 not run." in text
    assert "- machine: a \\| b" in text
    assert f"    rank 1 raised\n    ```\n    {'x' * 100_000}\n" in text
    assert json.loads((tmp_path / "gpu-test.json").read_text())["checks"][1]["outcome"] == NOT_RUN


def printing(name: str, code: str, most_s: float = 60.0) -> Program:
    """A program in a module of its own name."""
    return Program(name, f"timeit -n 1 -r 1 {code}", most_s, 1.0)


def test_programs_run_one_after_the_other_within_their_seconds(tmp_path: Path) -> None:
    ended = gpu_all.run(printing("good", "print(4321)"), tmp_path, 100.0)
    assert (ended.outcome, ended.status) == ("ended", 0)
    assert "4321" in (tmp_path / "good.txt").read_text()
    failed = gpu_all.run(printing("bad", "1/0"), tmp_path, 100.0)
    assert (failed.outcome, failed.status) == ("ended", 1)
    assert "ZeroDivisionError" in (tmp_path / "bad.txt").read_text()
    late = gpu_all.run(Program("late", "timeit", 60.0, 50.0), tmp_path, 60.0)
    assert (late.outcome, late.command) == ("not run", "python -m timeit")


def test_a_program_that_does_not_end_is_cut_and_what_it_said_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_all, "GRACE_S", 5.0)
    code = "'print(1234, flush=True); import time; time.sleep(600)'"
    cut = gpu_all.run(printing("slow", code, most_s=5.0), tmp_path, 100.0)
    assert (cut.outcome, cut.status) == ("cut", None)
    assert "1234" in (tmp_path / "slow.txt").read_text()


@pytest.mark.parametrize(
    ("device", "gpus", "ranks"), [("cuda", 1, 1), ("cuda", 8, 2), ("cpu", 0, 2)]
)
def test_programs_are_named_for_the_device(
    tmp_path: Path, device: str, gpus: int, ranks: int
) -> None:
    in_order = programs(device, tmp_path / "a folder", gpus)
    assert [each.name for each in in_order] == ["checks", "gpu_parity", "gpu_startup", "by_hand"]
    assert all(f"{device}" in each.words for each in in_order)
    assert f"--ranks {ranks} " in in_order[-1].words
    assert "'" in in_order[0].words  # the folder's name has a space


def test_the_summary_says_what_was_not_run(tmp_path: Path) -> None:
    results = [gpu_all.Result("a", "ended", 1.0, 0, "python -m a"), gpu_all.Result("b", "not run")]
    gpu_all.write(tmp_path, {"machine": "m"}, results)
    assert "| `b` | not run | 0 |" in (tmp_path / "summary.md").read_text()
    assert json.loads((tmp_path / "summary.json").read_text())["programs"][0]["status"] == 0
