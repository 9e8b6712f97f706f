"""Reading and judging a large suite: 1,000 cases against 50 stored sessions, as figures. Takes
about a minute.

    python benchmarks/verdict_speed.py [--cases 1000] [--runs 50]

It writes the sessions (about 600 MB) to a temporary folder, with what real records hold (several
launches of ten steps, environment, proof), and times a fresh process: import, read, judge.
"""

import argparse
import copy
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SCRIPT = """
import sys, time
start = time.perf_counter()
from pathlib import Path
from pytest_dnnbench.results.baselines.baseline import storage_runs
from pytest_dnnbench.results.verdicts.compare import compare
from pytest_dnnbench.results.records.saved import read_saved
imported = time.perf_counter()
now = read_saved(Path(sys.argv[2]))
found = compare(storage_runs(Path(sys.argv[1]), "latest"), now, layers=[], false_alarms=0.01)
end = time.perf_counter()
print(f"import {imported - start:.2f} s, read and judge {end - imported:.2f} s, verdicts: {found.counts()}")
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
            "dnnbench": {"schema": 1, "failed": [], "interrupted": False, "accepted": None},
        },
        indent=4,
    )


def benchmark(name: str, rng: random.Random) -> dict[str, object]:
    """One case: 1% noise between launches."""
    rates = [3000 * rng.gauss(1, 0.01) for _ in range(3)]
    values = {
        "throughput": ("img/s", "higher", rates),
        "step_time_s": ("s", "lower", [64 / rate for rate in rates]),
        "allocated_peak_bytes": ("B", "lower", [2.0**30] * 3),
        "cached_peak_bytes": ("B", "lower", [1.25 * 2.0**30] * 3),
        "loss": ("nat", "lower", [2.3] * 3),
    }
    record: dict[str, Any] = copy.deepcopy(RECORD)
    record["case"]["model"] = name
    record["metrics"] = {
        metric: {
            "value": sorted(launches)[1],
            "unit": unit,
            "better": better,
            "per_rank": [],
            "per_launch": launches,
        }
        for metric, (unit, better, launches) in values.items()
    }
    record["launches"] = [
        {
            "step_time_s": [64 / rate * rng.gauss(1, 0.01) for _ in range(10)],
            "loss": [rng.random() for _ in range(13)],
            "rank_wall_s": [640 / rate] * 2,
        }
        for rate in rates
    ]
    stats = {
        "min": 1.0,
        "max": 1.0,
        "mean": 1.0,
        "stddev": 0.0,
        "rounds": 30,
        "median": 1.0,
        "iqr": 0.0,
    }
    return {
        "fullname": name,
        "name": name,
        "group": None,
        "extra_info": {"dnnbench": record},
        "stats": stats,
    }


RECORD: dict[str, Any] = {
    "schema": 1,
    "case": {
        "framework": "ddp",
        "gpus": 2,
        "phase": "train",
        "dataset": "synthetic",
        "image_size": 28,
        "batch_size": 32,
        "precision": "fp32",
        "scaling": "weak",
        "device": "cpu",
        "launcher": "forkserver",
        "seed": 0,
        "options": {},
        "steps": 10,
        "warmup": 3,
        "data": {"source": "synthetic"},
    },
    "environment": {
        "must_match": {
            "cpu": "a",
            "cores": 2,
            "gpu": "b",
            "driver": "550",
            "torch": "2.13.0",
            "threads_per_rank": 1,
        },
        "recorded": {"hostname": "a", "python": "3.11", "load_1min": 1.0},
    },
    "thresholds": {"throughput": {"limit": 2910.0, "relative": -0.03, "source": "default"}},
    "correctness": {
        "checked": ["gradients", "parameters", "buffers"],
        "largest_deviation": {"gradients": 1e-17, "parameters": 1e-17, "buffers": 0.0},
        "tolerance": {"gradients": 1e-9, "parameters": 1e-9, "buffers": 1e-9},
    },
    "verdict": {"status": "ok", "against": None, "metrics": {}},
}

if __name__ == "__main__":
    main()
