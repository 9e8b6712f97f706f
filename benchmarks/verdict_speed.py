"""Reading and judging a large suite: 1,000 cases against 50 stored sessions, as figures. Takes
about a minute.

    python -m benchmarks.verdict_speed [--cases 1000] [--runs 50]

It writes the sessions (about 600 MB) to a temporary folder, with what real records hold (several
launches of ten steps, environment, proof), and times a fresh process: import, read, judge.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from pytest_dnnbench.results.records.schema import (
    Conditions,
    CorrectnessEntry,
    Environment,
    LaunchEntry,
    Record,
)
from tests.results.synthetic import GIB, judged, record, save, with_metric

SCRIPT = """
import sys, time
start = time.perf_counter()
from pathlib import Path
from pytest_dnnbench.results.baselines.stored_sessions import storage_runs
from pytest_dnnbench.results.verdicts.compare import compare
from pytest_dnnbench.results.records.saved import read_saved
imported = time.perf_counter()
now = read_saved(Path(sys.argv[2]))
stored = storage_runs(Path(sys.argv[1]), "latest")
comparison = compare(stored, now, layers=[], false_alarms=0.01)
end = time.perf_counter()
print(
    f"import {imported - start:.2f} s, read and judge {end - imported:.2f} s,"
    f" verdicts: {comparison.counts()}"
)
"""


def main() -> None:
    """Writes the sessions, then times three fresh processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=50)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder, "storage")
        storage.mkdir()
        for number in range(1, asked.runs + 1):
            save(storage / f"{number:04}_nightly.json", session(asked.cases, number))
        now = save(Path(folder, "now.json"), session(asked.cases, 0))
        size = sum(path.stat().st_size for path in storage.iterdir())
        print(f"{asked.cases} cases x {asked.runs} stored sessions, {size / 2**20:,.0f} MiB")
        for _ in range(3):
            start = time.perf_counter()
            answer = subprocess.run(
                [sys.executable, "-c", SCRIPT, str(storage), str(now)],
                check=True,
                capture_output=True,
                text=True,
            )
            print(f"{time.perf_counter() - start:.2f} s in all: {answer.stdout.strip()}")


def session(cases: int, seed: int) -> dict[str, Record]:
    """The records of one session, by the names of their tests."""
    names = [f"model{number}" for number in range(cases)]
    return {
        f"test_steps.py::test_train[ddp-{name}-2gpu]": full_record(name, cases * seed + number)
        for number, name in enumerate(names)
    }


def full_record(model: str, seed: int) -> Record:
    """The record of a case with 1% noise between launches, and all that a real one has."""
    full = judged(record(noise=0.01, seed=seed, model=model), "ok")
    with_metric(full, "cached_peak_bytes", [1.25 * GIB] * 3)
    with_metric(full, "loss", [2.3] * 3)
    rng = random.Random(seed)
    times = full.metrics["step_time_s"].per_launch
    full.launches = [launch(step_time_s, rng) for step_time_s in times]
    full.run = msgspec.structs.replace(full.run, steps=10, warmup=3)
    full.environment, full.correctness = ENVIRONMENT, CORRECTNESS
    return full


def launch(step_time_s: float, rng: random.Random) -> LaunchEntry:
    """A launch of ten steps of about this length."""
    return LaunchEntry(
        step_time_s=[step_time_s * rng.gauss(1, 0.01) for _ in range(10)],
        loss=[rng.random() for _ in range(13)],
        rank_wall_s=[10 * step_time_s] * 2,
        page_faults=[0, 0],
        conditions=Conditions(others_cores=0.0, cores=(0, 1)),
    )


ENVIRONMENT = Environment(
    must_match={
        "cpu": "a",
        "cores": 2,
        "gpu": "b",
        "driver": "550",
        "torch": "2.13.0",
        "threads_per_rank": 1,
    },
    recorded={"hostname": "a", "python": "3.11", "load_1min": 1.0},
)
CORRECTNESS = CorrectnessEntry(
    checked=["gradients", "parameters", "buffers"],
    largest_deviation={"gradients": 1e-17, "parameters": 1e-17, "buffers": 0.0},
    tolerance={"gradients": 1e-9, "parameters": 1e-9, "buffers": 1e-9},
    ranks_agree="bit for bit",
)

if __name__ == "__main__":
    main()
