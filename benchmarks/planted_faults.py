"""Planted faults on real ranks: is each caught, by the case that has it, and no other case accused?

    python -m benchmarks.planted_faults [--baselines 5] [--launches 3]

A framework of steady step time (tests/rank/planted_workers.py) is measured in some sessions without
faults, which are the baseline, and then once with one fault per case: a step slowed by 3, 5, 10 and
20%, one slow rank, 256 MiB kept alive, memory that grows with every step, gradients that are not
exchanged. The limit of the step time is 1%, so that the noise decides. The slow rank must be named,
and none in another case. Two CPU ranks; some 3 minutes on two quiet cores. Fails if a fault is
missed or a sound case or rank accused.
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
    """A fault: its worker, and the metric that must show it; None: nothing may; "step": the step is
    proven wrong. `rank`: the one that must be named as slow; None: no rank may."""

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

# Steps that mostly sleep are no slower on a busy machine, nor on a slower one.
isolation.OTHERS_CORES = float("inf")
machine.EXPLAINED = 0.0

def pytest_dnnbench_frameworks():
    return [FrameworkSpec(name, worker, "planted", min_gpus=2) for name, worker in {rows!r}]
"""
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
    """One session of these cases, stored; what each failed with, None for those that passed."""
    environment = {key: value for key, value in os.environ.items() if key != FAULTS}
    environment["PYTHONPATH"] = str(ROOT)
    command = [
        *(
            sys.executable,
            "-m",
            "pytest",
            "test_cases.py",
            "-q",
            "-p",
            "no:cacheprovider",
            "--junit-xml=junit.xml",
        ),
        *(
            "--dnn-device",
            "cpu",
            "--gpus",
            "2",
            "--dnn-gpu-counts",
            "2",
            "--dnn-models",
            "tests.tiny_models:tiny",
        ),
        *("--dnn-batch-size", "8", "--dnn-frameworks", ",".join(fault.name for fault in faults)),
        *("--benchmark-storage=file://stored", "--benchmark-autosave", *arguments),
    ]
    answer = subprocess.run(
        command,
        cwd=folder,
        env=environment | ({FAULTS: "1"} if planted else {}),
        capture_output=True,
        text=True,
    )
    if answer.returncode not in (0, 1):
        raise SystemExit(
            f"the session did not run:\n{answer.stdout[-4000:]}{answer.stderr[-2000:]}"
        )
    tests = ElementTree.parse(folder / "junit.xml").iter("testcase")
    failures = {test.attrib["name"]: test.find("failure") for test in tests}
    return {
        fault.name: next((None if found is None else found.text or "")
                         for name, found in failures.items() if name.startswith(f"test_train[{fault.name}-"))
        for fault in faults
    }  # fmt: skip


def verdicts(folder: Path) -> dict[str, dict[str, Any]]:
    """The verdict of each case of the latest stored session, by framework."""
    latest = max((folder / "stored").rglob("*.json"))
    records = [
        bench["extra_info"]["dnnbench"] for bench in json.loads(latest.read_text())["benchmarks"]
    ]
    return {record["case"]["framework"]: record["verdict"] for record in records}


def caught(fault: Fault, failure: str | None, verdict: dict[str, Any] | None) -> bool:
    """Whether the case failed for the reason that was planted; for a sound case, whether it was
    left in peace."""
    named = re.findall(r"rank (\d+) is the slow one", failure or "")
    if named != ([] if fault.rank is None else [str(fault.rank)]):
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
    """Prints a line per fault; 1 if one was missed or a sound case accused."""
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
            accused = session(folder, STEADY, *launches, planted=False)
            print(
                f"baseline {number + 1}: {sum(one is None for one in accused.values())} cases passed",
                flush=True,
            )
        judged = ("--dnn-baseline", "latest", "--dnn-limits", f"{TIME}=+1%")
        failures = session(folder, (*STEADY, UNSYNCHRONISED), *launches, *judged, planted=True)
        return _report(failures, verdicts(folder))


def _report(failures: dict[str, str | None], found: dict[str, dict[str, Any]]) -> int:
    missed = 0
    print(f"\n{'fault':16}{'verdict':>12}{'change':>9}{'limit':>9}{'finds':>8}  {'caught'}")
    for fault in (*STEADY, UNSYNCHRONISED):
        verdict = found.get(fault.name)
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
