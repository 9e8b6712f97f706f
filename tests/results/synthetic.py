"""Records and saved files as a session would make them, for tests that need no ranks."""

import copy
import json
import random
from pathlib import Path
from typing import Any

from pytest_dnnbench.results.records.record import SCHEMA, metric_entry

NAME = "test_steps.py::test_train[ddp-resnet18-2gpu]"
GIB = 2.0**30


def record(
    level: float = 1.0, *, memory: float = GIB, noise: float = 0.002, seed: int = 0, **case: Any
) -> dict[str, Any]:
    """Level 0.9 is 10% slower. Three launches with some noise."""
    rng = random.Random(seed)
    rates = [3000 * level * (1 + rng.gauss(0, noise)) for _ in range(3)]
    metrics = {
        "throughput": metric_entry("throughput", rates, []),
        "step_time_s": metric_entry("step_time_s", [64 / rate for rate in rates], []),
        "allocated_peak_bytes": metric_entry(
            "allocated_peak_bytes", [memory] * 3, [memory, memory]
        ),
    }
    return {
        "schema": SCHEMA,
        "case": {
            "framework": "ddp",
            "model": "resnet18",
            "gpus": 2,
            "phase": "train",
            "data": {"source": "s"},
            **case,
        },
        "metrics": metrics,
        "launches": [{"step_time_s": [64 / rate] * 2} for rate in rates],
        "thresholds": {"throughput": {"limit": 2910.0, "relative": -0.03, "source": "default"}},
        "environment": {
            "must_match": {"torch": "2.13.0", "driver": "550"},
            "recorded": {"hostname": "a"},
        },
        "correctness": {},
        "plan": None,
        "verdict": {"status": "no-baseline", "against": None, "metrics": {}},
    }


def file_of(records: dict[str, dict[str, Any]], **session: Any) -> dict[str, Any]:
    """What pytest-benchmark would write."""
    return {
        "machine_info": {"node": "a"},
        "commit_info": {},
        "benchmarks": [
            {
                "fullname": name,
                "name": name,
                "stats": {"min": 1.0, "data": [1.0]},
                "extra_info": {"dnnbench": one},
            }
            for name, one in records.items()
        ],
        "datetime": "2026-01-01T00:00:00+00:00",
        "version": "5.3.1",
        "dnnbench": {"schema": 1, "failed": [], "interrupted": False, "accepted": None, **session},
    }


def save(path: Path, records: dict[str, dict[str, Any]] | None = None, **session: Any) -> Path:
    """Writes such a file."""
    path.write_text(
        json.dumps(file_of({NAME: record()} if records is None else records, **session), indent=4)
    )
    return path


def storage(folder: Path, count: int = 5) -> Path:
    """A folder with so many A/A sessions."""
    folder.mkdir(exist_ok=True)
    for number in range(1, count + 1):
        save(folder / f"{number:04}_nightly.json", {NAME: record(seed=number)})
    return folder


def changed(base: dict[str, Any], **parts: dict[str, Any]) -> dict[str, Any]:
    """A copy with some keys of its parts replaced: `changed(r, case={"gpus": 4})`."""
    new = copy.deepcopy(base)
    for part, values in parts.items():
        new[part].update(values)
    return new
