"""Planted faults on real ranks: does the case with the fault fail, and no other?

    python -m benchmarks.planted_faults [--baselines 5] [--launches 3]

A framework of steady step time (tests/rank/planted_workers.py) is first measured in some sessions
without faults; these are the baseline. Then it is measured once with one fault per case: a step
slowed by 3, 5, 10 and 20%, one slow rank, 256 MiB kept alive, memory that grows with every step,
gradients that are not exchanged. The limit of the step time is 1%, so that the noise decides. The
slow rank must be blamed, and no rank in another case. Two CPU ranks; some 3 minutes on two quiet
cores. Fails if a fault is missed, or if a sound case or rank is blamed.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.rank.planted_workers import FAULTS

ROOT = Path(__file__).resolve().parents[1]
TIME, MEMORY = "step_time_s", "resident_peak_bytes"


@dataclass(frozen=True)
class Fault:
    """A fault and its worker. `shown` is the metric that must regress, "step" if the proof must
    fail, None if the case must pass. `rank` is the rank that must be blamed as slow, None if no
    rank may be."""

    name: str
    worker: str
    shown: str | None
    rank: int | None = None


STEADY = (
    Fault("none", "Steady", None),
    Fault("slower3", "Slower3", TIME),
    Fault("slower5", "Slower5", TIME),
    Fault("slower10", "Slower10", TIME),
    Fault("slower20", "Slower20", TIME),
    Fault("slow-rank", "SlowRank", TIME, rank=1),
    Fault("hoards", "Hoarder", MEMORY),
    Fault("grows", "Growing", MEMORY),
)
UNSYNCHRONISED = Fault("unsynchronised", "NoAllReduce", "step")

CONFTEST = """
from pytest_dnnbench.catalog import FrameworkSpec
from pytest_dnnbench.controller import disturbance
from pytest_dnnbench.results.verdicts import machine_speed

# Steps that mostly sleep are not slower on a busy machine, nor on a slower one.
disturbance.OTHERS_CORES = float("inf")
machine_speed.EXPLAINED = 0.0

def pytest_dnnbench_frameworks():
    return [FrameworkSpec(name, worker, "planted", min_gpus=2) for name, worker in {rows!r}]
"""
OPTIONS = (
    *("test_cases.py", "-q", "-p", "no:cacheprovider", "--junit-xml=junit.xml"),
    *("--dnn-device", "cpu", "--dnn-gpu-counts", "2", "--dnn-batch-size", "8"),
    *("--dnn-models", "tests.tiny_models:tiny"),
    *("--benchmark-storage=file://stored", "--benchmark-autosave"),
)
CASES = """
def test_train(framework, model, gpus, process_group, dnnbench):
    dnnbench.measure(framework, model, process_group(gpus), phase="train")
"""


def prepare(folder: Path) -> None:
    """Writes the cases and the frameworks."""
    rows = [(fault.name, f"tests.rank.planted_workers:{fault.worker}") for fault in STEADY]
    rows.append((UNSYNCHRONISED.name, f"tests.rank.broken_workers:{UNSYNCHRONISED.worker}"))
    (folder / "conftest.py").write_text(CONFTEST.format(rows=rows))
    (folder / "test_cases.py").write_text(CASES)


def session(
    folder: Path, faults: tuple[Fault, ...], *arguments: str, planted: bool
) -> dict[str, str | None]:
    """Runs and stores one session of these cases; returns each case's failure text, None for those
    that passed."""
    environment = {key: value for key, value in os.environ.items() if key != FAULTS}
    environment |= {"PYTHONPATH": str(ROOT)} | ({FAULTS: "1"} if planted else {})
    frameworks = ",".join(fault.name for fault in faults)
    answer = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, "--dnn-frameworks", frameworks, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    if answer.returncode not in (0, 1):
        raise SystemExit(
            f"the session did not run:\n{answer.stdout[-4000:]}{answer.stderr[-2000:]}"
        )
    tests = list(ElementTree.parse(folder / "junit.xml").iter("testcase"))
    return {fault.name: _failure(fault, tests) for fault in faults}


def _failure(fault: Fault, tests: list[ElementTree.Element]) -> str | None:
    """The failure text of the fault's case in JUnit's report; None if it passed."""
    for test in tests:
        failure = test.find("failure")
        if test.attrib["name"].startswith(f"test_train[{fault.name}-") and failure is not None:
            return failure.text or ""
    return None


def verdicts(folder: Path) -> dict[str, dict[str, Any]]:
    """The verdict of each case of the latest stored session, by framework."""
    latest = max((folder / "stored").rglob("*.json"))
    records = [
        bench["extra_info"]["dnnbench"] for bench in json.loads(latest.read_text())["benchmarks"]
    ]
    return {record["case"]["framework"]: record["verdict"] for record in records}


def caught(fault: Fault, failure: str | None, verdict: dict[str, Any] | None) -> bool:
    """Whether the case failed for the reason that was planted; for a sound case, whether it
    passed."""
    blamed = re.findall(r"rank (\d+) is the slow one", failure or "")
    if blamed != ([] if fault.rank is None else [str(fault.rank)]):
        return False
    if fault.shown is None:
        return failure is None
    if fault.shown == "step":
        return failure is not None and "WrongResult" in failure and verdict is None
    return (
        failure is not None
        and verdict is not None
        and verdict["metrics"][fault.shown]["status"] == "regressed"
    )


def main() -> int:
    """Prints a line per fault; returns 1 if a fault was missed or a sound case blamed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--baselines", type=int, default=5)
    parser.add_argument("--launches", type=int, default=3)
    options = parser.parse_args()
    launches = ("--dnn-launches", str(options.launches))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder)
        for number in range(options.baselines):
            failures = session(folder, STEADY, *launches, planted=False)
            passed = sum(failure is None for failure in failures.values())
            print(f"baseline {number + 1}: {passed} cases passed", flush=True)
        judged = ("--dnn-baseline", "latest", "--dnn-limits", f"{TIME}=+1%")
        failures = session(folder, (*STEADY, UNSYNCHRONISED), *launches, *judged, planted=True)
        return _report(failures, verdicts(folder))


def _report(failures: dict[str, str | None], verdict_of: dict[str, dict[str, Any]]) -> int:
    missed = 0
    print(f"\n{'fault':16}{'verdict':>12}{'change':>9}{'limit':>9}{'finds':>8}  {'caught'}")
    for fault in (*STEADY, UNSYNCHRONISED):
        verdict = verdict_of.get(fault.name)
        right = caught(fault, failures[fault.name], verdict)
        missed += not right
        metric = TIME if fault.shown in (None, TIME) else fault.shown
        entry = verdict["metrics"][metric] if verdict else {}
        status = (
            verdict["status"] if verdict else "wrong step" if failures[fault.name] else "passed"
        )
        numbers = (
            f"{entry['change']:>+9.1%}{entry['limit']:>+9.1%}{entry['minimum_detectable']:>8.1%}"
            if entry
            else " " * 26
        )
        print(f"{fault.name:16}{status:>12}{numbers}  {'yes' if right else 'NO'}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
