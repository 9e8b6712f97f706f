"""The record of a measured case: what stands in pytest-benchmark's JSON under
extra_info["dnnbench"].

Schema history: 1, the first.
"""

import statistics
from dataclasses import asdict
from typing import Any

import msgspec

from pytest_dnnbench.metrics import METRICS
from pytest_dnnbench.results.records.launches import Launches, either, launches_of
from pytest_dnnbench.results.records.measurement import Measurement
from pytest_dnnbench.results.records.plan_entry import plan_entry

SCHEMA = 1

Record = dict[str, Any]


def make_record(measurement: Measurement) -> Record:
    """The record, plain data that JSON can hold. Speed-up is added when the session's other cases
    are known, thresholds and verdict when it is judged."""
    case, first = measurement.case, measurement.launches[0].reports
    return {
        "schema": SCHEMA,
        "case": {
            **asdict(case),
            "samples_per_update": first[0].samples_per_update,
            "oversubscribed": measurement.oversubscribed,
            "steps": measurement.steps,
            "warmup": measurement.warmup,
            "data": first[0].data,
            **({"parallel": True} if measurement.parallel else {}),
        },
        "metrics": {
            name: metric_entry(name, *values) for name, values in measurement.values().items()
        },
        "launches": [
            {
                "step_time_s": launch.step_time_s,
                "loss": launch.loss,
                "rank_wall_s": _walls(launch.reports),
                "page_faults": [report.page_faults for report in launch.reports],
                **({"own_work_s": launch.own_work_s} if launch.own_work_s else {}),
                **msgspec.to_builtins(launch.conditions),
            }
            for launch in measurement.launches
        ],
        "thresholds": {},
        "environment": measurement.environment,
        "correctness": measurement.correctness,
        "plan": plan_entry(measurement),
        "details": [
            {key: fact for key, fact in report.details.items() if key != "plan"} for report in first
        ],
        "verdict": {"status": "no-baseline", "against": None, "metrics": {}},
    }


def metric_entry(name: str, per_launch: list[float], per_rank: list[float]) -> dict[str, Any]:
    """One metric: its value is the median over the launches."""
    metric = METRICS[name]
    return {
        "value": statistics.median(per_launch),
        "unit": metric.unit,
        "better": metric.better,
        "per_rank": per_rank,
        "per_launch": per_launch,
    }


def relate(records: list[Record]) -> None:
    """Adds speed-up and scaling efficiency against `single` of the same session, round by round.

    A launch is divided by the launch of `single` in the same round, so that a drift of the machine
    cancels. Cases without such a partner get neither figure. Repeating it changes nothing.
    """
    singles = {
        _setting(record): record for record in records if record["case"]["framework"] == "single"
    }
    for record in records:
        single = singles.get(_setting(record))
        if single is None:
            continue
        pairs = zip(_throughputs(record), _throughputs(single), strict=False)
        ratios = [ours / theirs for ours, theirs in pairs]
        gpus = record["case"]["gpus"]
        reasons = either(reasons_of(record), reasons_of(single))
        disturbed = {"disturbed": reasons} if any(reasons) else {}
        for name, values in (
            ("speedup", ratios),
            ("scaling_efficiency", [ratio / gpus for ratio in ratios]),
        ):
            record["metrics"][name] = metric_entry(name, values, []) | disturbed


def reasons_of(record: Record) -> list[str | None]:
    """Why each launch was disturbed, or None."""
    return [launch.get("disturbed") for launch in record["launches"]]


def launches_in(record: Record, metric: str) -> Launches:
    """The launches of a metric of a record that was made in this session."""
    entry = record["metrics"][metric]
    return launches_of(metric, entry["per_launch"], entry.get("disturbed") or reasons_of(record))


def _setting(record: Record) -> tuple[object, ...]:
    """What must be alike for a speed-up to mean anything."""
    case = record["case"]
    batch = case["batch_size"] if case["scaling"] == "weak" else case["batch_size"] * case["gpus"]
    keys = (
        "model",
        "phase",
        "dataset",
        "image_size",
        "precision",
        "scaling",
        "device",
        "seed",
        "steps",
        "warmup",
    )
    return (batch, *(case[key] for key in keys))


def _throughputs(record: Record) -> list[float]:
    return list(record["metrics"]["throughput"]["per_launch"])


def _walls(reports: Any) -> list[float]:
    return [report.window_end_s - report.window_start_s for report in reports]
