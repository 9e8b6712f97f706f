"""Records and saved files as a session would make them, for tests that need no ranks."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from pytest_dnnbench.case import Case, Scalar
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
from pytest_dnnbench.results.records.verdict import Status, Verdict

NAME = "test_steps.py::test_train[ddp-resnet18-2gpu]"
GIB = 2.0**30
CASE = {"framework": "ddp", "model": "resnet18", "gpus": 2, "phase": "train"}
MUST_MATCH: dict[str, Scalar | None] = {"torch": "2.13.0", "driver": "550"}


def record(
    level: float = 1.0, *, memory: float = GIB, noise: float = 0.002, seed: int = 0, **case: Any
) -> Record:
    """Level 0.9 is 10% slower. Three launches with some noise."""
    rng = random.Random(seed)
    rates = [3000 * level * (1 + rng.gauss(0, noise)) for _ in range(3)]
    facts: dict[str, Any] = CASE | case
    return Record(
        schema=SCHEMA,
        case=Case(**facts),
        run=RunFacts(
            sample="img",
            samples_per_update=64,
            oversubscribed=False,
            steps=2,
            warmup=1,
            data={"source": "s"},
        ),
        metrics={
            "throughput": metric_entry("throughput", rates, sample="img"),
            "step_time_s": metric_entry("step_time_s", [64 / rate for rate in rates]),
            "allocated_peak_bytes": metric_entry(
                "allocated_peak_bytes", [memory] * 3, [memory, memory]
            ),
        },
        launches=[
            LaunchEntry(
                step_time_s=[64 / rate] * 2, loss=[2.3] * 3, rank_wall_s=[1.0] * 2, page_faults=[0]
            )
            for rate in rates
        ],
        environment=Environment(must_match=MUST_MATCH, recorded={"hostname": "a"}),
        correctness=CorrectnessEntry(),
        thresholds={"throughput": LimitEntry(limit=2910.0, relative=-0.03)},
    )


def judged(record: Record, status: Status) -> Record:
    """The record with a verdict of this status."""
    record.verdict = Verdict(status=status)
    return record


def elsewhere(record: Record, **must_match: Scalar) -> Record:
    """The record with some facts of the environment replaced."""
    record.environment = Environment(must_match={**MUST_MATCH, **must_match})
    return record


def on_launches(record: Record, **changes: Any) -> Record:
    """The record with some fields of all its launches replaced."""
    record.launches = [msgspec.structs.replace(launch, **changes) for launch in record.launches]
    return record


def disturbed(record: Record, reason: str, *hit: int) -> Record:
    """The record with those of its launches disturbed whose numbers are given."""
    record.launches = [
        msgspec.structs.replace(
            launch, conditions=Conditions(disturbed=reason if number in hit else None)
        )
        for number, launch in enumerate(record.launches)
    ]
    return record


def with_metric(record: Record, metric: str, values: list[float]) -> Record:
    """The record with other values of a metric."""
    record.metrics[metric] = metric_entry(metric, values)
    return record


def file_of(records: Mapping[str, Record], **session: Any) -> dict[str, Any]:
    """The content of the file that pytest-benchmark would write."""
    return {
        "machine_info": {"node": "a"},
        "commit_info": {},
        "benchmarks": [
            {
                "fullname": name,
                "name": name,
                "stats": {"min": 1.0, "data": [1.0]},
                "extra_info": {"dnnbench": msgspec.to_builtins(record)},
            }
            for name, record in records.items()
        ],
        "datetime": "2026-01-01T00:00:00+00:00",
        "version": "5.3.1",
        "dnnbench": msgspec.to_builtins(SessionEntry(schema=SCHEMA, **session)),
    }


def save(path: Path, records: Mapping[str, Record] | None = None, **session: Any) -> Path:
    """Writes such a file."""
    content = file_of({NAME: record()} if records is None else records, **session)
    path.write_text(json.dumps(content, indent=4))
    return path


def storage(folder: Path, count: int = 5) -> Path:
    """A folder with a number of A/A sessions."""
    folder.mkdir(exist_ok=True)
    for number in range(1, count + 1):
        save(folder / f"{number:04}_nightly.json", {NAME: record(seed=number)})
    return folder
