"""Reading and judging a large suite: 1,000 cases against 50 stored sessions, as figures. Takes
about a minute.

    python benchmarks/verdict_speed.py [--cases 1000] [--runs 50]

It writes the sessions (about 600 MB) to a temporary folder, with what real records hold (several
launches of ten steps, environment, proof), and times a fresh process: import, read, judge.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from pytest_dnnbench.case import Case
from pytest_dnnbench.results.records.record import metric_entry
from pytest_dnnbench.results.records.schema import (
    SCHEMA,
    Conditions,
    CorrectnessEntry,
    Environment,
    LaunchEntry,
    LimitEntry,
    Record,
    RunFacts,
    SessionEntry,
)
from pytest_dnnbench.results.records.verdict import Verdict

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
            (storage / f"{number:04}_nightly.json").write_text(session(asked.cases, number))
        now = Path(folder, "now.json")
        now.write_text(session(asked.cases, 0))
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


def session(cases: int, seed: int) -> str:
    """One saved session, in the form that pytest-benchmark writes."""
    rng = random.Random(seed)
    benchmarks = [
        benchmark(f"test_steps.py::test_train[ddp-model{number}-2gpu]", rng)
        for number in range(cases)
    ]
    return json.dumps(
        {
            "machine_info": {},
            "commit_info": {},
            "benchmarks": benchmarks,
            "datetime": "2026-01-01T00:00:00+00:00",
            "version": "5.3.1",
            "dnnbench": msgspec.to_builtins(SessionEntry(schema=SCHEMA)),
        },
        indent=4,
    )


def benchmark(name: str, rng: random.Random) -> dict[str, object]:
    """One case: 1% noise between launches."""
    stats = {"min": 1.0, "max": 1.0, "mean": 1.0, "stddev": 0.0, "rounds": 30, "median": 1.0}
    return {
        "fullname": name,
        "name": name,
        "group": None,
        "extra_info": {"dnnbench": msgspec.to_builtins(record(name, rng))},
        "stats": {**stats, "iqr": 0.0},
    }


def record(model: str, rng: random.Random) -> Record:
    """The record of the case."""
    rates = [3000 * rng.gauss(1, 0.01) for _ in range(3)]
    values = {
        "throughput": rates,
        "step_time_s": [64 / rate for rate in rates],
        "allocated_peak_bytes": [2.0**30] * 3,
        "cached_peak_bytes": [1.25 * 2.0**30] * 3,
        "loss": [2.3] * 3,
    }
    return Record(
        schema=SCHEMA,
        case=Case("ddp", model, 2, "train"),
        run=RunFacts(
            sample="img",
            samples_per_update=64,
            oversubscribed=False,
            steps=10,
            warmup=3,
            data={"source": "synthetic"},
        ),
        metrics={
            metric: metric_entry(metric, launches, sample="img")
            for metric, launches in values.items()
        },
        launches=[launch(rate, rng) for rate in rates],
        environment=ENVIRONMENT,
        correctness=CORRECTNESS,
        thresholds={"throughput": LimitEntry(limit=2910.0, relative=-0.03)},
        verdict=Verdict(status="ok"),
    )


def launch(rate: float, rng: random.Random) -> LaunchEntry:
    """A launch at about this rate."""
    return LaunchEntry(
        step_time_s=[64 / rate * rng.gauss(1, 0.01) for _ in range(10)],
        loss=[rng.random() for _ in range(13)],
        rank_wall_s=[640 / rate] * 2,
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
