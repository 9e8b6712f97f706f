"""`dnnbench.time` as a user calls it: the page's example as written, Horovod, failures, baselines,
limits, and a session that is continued."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_resume import COUNTING
from tests.fake_launches import CONFTEST
from tests.patience import HANG_S

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "timing-functions.md"
OTHERS = """
COLLECTIVES = "pytest_dnnbench.rank.collectives"

def test_horovod(dnnbench, process_group):
    dnnbench.time(
        f"{COLLECTIVES}:HorovodAllReduce", process_group(2), arguments={"size": 4096},
        check=f"{COLLECTIVES}:check", framework="horovod", collective="all_reduce",
    )

def test_wrong(dnnbench, process_group):
    dnnbench.time(
        "tests.rank.functions:Sum", process_group(2), arguments={"size": 64, "off": 1.0},
        check="tests.rank.functions:check_sum",
    )

def test_fails(dnnbench, process_group):
    dnnbench.time("tests.rank.functions:fails_on_rank_1", process_group(2))

def test_nested(dnnbench, process_group):
    dnnbench.time(lambda: None, process_group(2))

def test_unknown_group(dnnbench, process_group):
    dnnbench.time("tests.rank.functions:Sum", process_group(2), framework="ddp")
"""
SUM = """
def test_sum(dnnbench, process_group):
    dnnbench.time(
        "tests.rank.functions:Sum", process_group(2), arguments={"size": 64}, collective="reduce"
    )
"""


@dataclass(frozen=True)
class Session:
    """What a session printed, and its records by the name of the test."""

    text: str
    records: dict[str, Any]
    folder: Path


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """The page's example, and functions that fail, on two real ranks."""
    folder = tmp_path_factory.mktemp("functions")
    for name, code in re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        (folder / name).write_text(code)
    (folder / "test_others.py").write_text(OTHERS)
    words = (
        "-p no:cacheprovider --dnn-device cpu --dnn-gpu-counts 2 --dnn-launches 2 --dnn-steps 10"
        " --benchmark-json out.json --dnn-report report"
        " --dnn-breakdown --dnn-traces traces"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words.split()],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    benchmarks = json.loads((folder / "out.json").read_text())["benchmarks"]
    records = {each["name"]: each["extra_info"]["dnnbench"] for each in benchmarks}
    return Session(done.stdout, records, folder)


def test_the_pages_example_runs_as_written(session: Session) -> None:
    assert re.search(r"4 failed, 4 passed", session.text), session.text
    record = session.records["test_all_reduce[2gpu-4096]"]
    assert record["case"] is None, "no model, no batch"
    assert record["function"] == {
        "function": "exchange:AllReduce",
        "framework": "torch",
        "gpus": 2,
        "arguments": {"size": 4096},
        "check": "exchange:check_sum",
        "collective": "all_reduce",
        "device": "cpu",
        "seed": 0,
    }
    assert record["correctness"]["checked"] == ["exchange:check_sum"]
    metrics = record["metrics"]
    for launch, rate in zip(record["launches"], metrics["throughput"]["per_launch"], strict=True):
        assert len(launch["step_time_s"]) == 10
        assert rate == pytest.approx(4096 * 10 / max(launch["rank_wall_s"]))
    # Of two ranks an all-reduce has the factor 2 x (2 - 1) / 2.
    for name in ("algorithm_bandwidth", "bus_bandwidth"):
        assert metrics[name]["per_launch"] == metrics["throughput"]["per_launch"]
        assert metrics[name]["unit"] == "B/s"
    loader = session.records["test_loader"]
    assert loader["metrics"]["throughput"]["unit"] == "img/s"
    assert loader["correctness"]["checked"] == []
    assert "bus_bandwidth" not in loader["metrics"]


def test_functions_have_a_table_of_their_own(session: Session) -> None:
    assert re.search(r"^  function +in +arguments +size +GPUs +time", session.text, re.MULTILINE)
    assert re.search(r"^  all_reduce +torch +4 KiB +2 ", session.text, re.MULTILINE)
    assert re.search(r"^  all_reduce +horovod +4 KiB +2 ", session.text, re.MULTILINE)
    assert re.search(r"^  loader +torch +samples=32 +2 ", session.text, re.MULTILINE)
    report = session.folder / "report"
    page = (report / "index.html").read_text()
    assert "4 timed functions" in page
    assert "<td>all_reduce</td>" in page
    assert "Nothing was measured" not in page
    assert "### timed functions" in (report / "table.md").read_text()
    rows = (report / "functions.csv").read_text().splitlines()
    assert rows[0].startswith("function,framework,collective,arguments,gpus,device,launches,")
    assert len(rows) == 5


def test_functions_are_broken_down_and_traced(session: Session) -> None:
    """Which part is the largest depends on what else the machine does in five short steps, and so
    does how many launches are left out as disturbed; which part an exchange counts as does not."""
    heads, *rows = session.text.partition("where a step's time goes\n")[2].splitlines()
    for framework, name, exchange in (
        ("torch", "test_all_reduce[2gpu-4096]", "gloo:all_reduce"),
        ("horovod", "test_horovod", "dnnbench::communication: Horovod"),
    ):
        breakdown = session.records[name]["breakdown"]
        start = f"{framework}, all_reduce, 2, size=4096"
        row = next(row.strip() for row in rows if row.strip().startswith(start))
        shown = dict(zip(heads.split()[1:], row.removeprefix(start).split(), strict=True))
        assert shown["comm."] == f"{breakdown['shares']['communication']:.0%}"
        ranks = [rank for launch in breakdown["launches"] for rank in launch]
        assert len(ranks) == 2 * (2 - breakdown["left_out"]) > 0
        # Of Horovod's exchange the wait for it is marked.
        assert all(rank["parts_s"]["communication"] > 0 for rank in ranks)
        parts = {each["name"]: each["part"] for each in breakdown["operators"]}
        assert parts[exchange] == "communication"
        assert "compute" not in parts.values()
        traces = {rank["trace"] for rank in ranks}
        assert len(traces) == len(ranks)
        assert traces <= {path.name for path in (session.folder / "traces").iterdir()}


def test_horovods_group_is_joined(session: Session) -> None:
    record = session.records["test_horovod"]
    assert record["correctness"]["checked"] == ["pytest_dnnbench.rank.collectives:check"]
    assert "horovod" in record["environment"]["must_match"]


def test_what_fails_says_why(session: Session) -> None:
    for reason in (
        ": torch-Sum-2gpu (size=64, off=1.0): the step is wrong, so it was not"
        " timed: tests.rank.functions:check_sum says `assert bool(",
        "no such shard: 1",
        "function <function test_nested.<locals>.<lambda>",
        "framework 'ddp' has no group for a function to run in: choose from torch, horovod",
    ):
        assert reason in session.text, reason


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs SUM, where launches are made up in this process."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(test_cases=SUM)

    def start(*words: str, made_up: bool = True) -> pytest.RunResult:
        session = pytester.runpytest_inprocess if made_up else pytester.runpytest_subprocess
        return session(
            "-s", "--dnn-device=cpu", "--dnn-steps=3", "--benchmark-storage=saved", *words
        )

    return start


def test_a_slower_function_fails_against_its_baseline_and_a_limit(
    run: Any, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest(CONFTEST)
    for _ in range(3):
        run("--benchmark-save=nightly", "--dnn-breakdown").assert_outcomes(passed=1)
    run("--dnn-baseline=latest").assert_outcomes(passed=1)
    monkeypatch.setenv("FAKE_LEVELS", json.dumps({"torch": 80}))
    monkeypatch.setenv("FAKE_PARTS_MS", json.dumps({"torch": {"communication": 6}}))
    slower = run("--dnn-baseline=latest")
    slower.assert_outcomes(failed=1)
    slower.stdout.fnmatch_lines(
        [
            "regressed: torch-Sum-2gpu (size=64), against 0003_nightly.json*",
            "*throughput: *-20.*",
            "  why: a profiled step of rank 0 takes * ms more (12* to 15* ms)",
            "    exposed communication in fake::communication: * ms more (3* ms to 6* ms), *",
        ]
    )
    limited = run("--dnn-limits=step_time_s<=1ms")
    limited.assert_outcomes(failed=1)
    limited.stdout.fnmatch_lines(["*step_time_s: *"])
    pytester.makepyfile(test_cases=SUM.replace("64", "128"))
    other = run("--dnn-baseline=latest")
    other.assert_outcomes(passed=1)
    other.stdout.fnmatch_lines(["*arguments.size: 64 -> 128*"])


def test_an_interrupted_session_of_functions_is_continued(
    run: Any, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest(COUNTING)
    monkeypatch.setenv("STOP_AFTER", "1")
    assert run("--dnn-launches=2", made_up=False).ret == pytest.ExitCode.INTERRUPTED
    monkeypatch.delenv("STOP_AFTER")
    second = run("--dnn-launches=2", "--dnn-resume", made_up=False)
    second.assert_outcomes(passed=1)
    second.stdout.fnmatch_lines(["*1 launch taken from*", "launches measured: 1"])
