"""The typed record of a case (results/records/schema.py), made from a session's dict."""

from dataclasses import fields
from typing import Any

import msgspec

from pytest_dnnbench.case import Case
from pytest_dnnbench.planner.plan import Plan
from pytest_dnnbench.results.records.schema import Record

_CASE = {field.name for field in fields(Case)}
_PLAN = {field.name for field in fields(Plan)}
_CORRECTNESS = {"checked", "largest_deviation", "tolerance", "ranks_agree"}
_CONDITIONS = {"disturbed", "others_cores"}


def typed(record: dict[str, Any]) -> Record:
    """The same record as a struct."""
    case, plan = record["case"], record["plan"]
    correctness = record["correctness"]
    about = {name: fact for name, fact in correctness.items() if name not in _CORRECTNESS}
    metrics = {name: dict(entry) for name, entry in record["metrics"].items()}
    metrics["throughput"]["unit"] = "img/s"
    data = {
        "schema": record["schema"],
        "case": {name: fact for name, fact in case.items() if name in _CASE},
        "run": {"sample": "img", **case},
        "metrics": metrics,
        "launches": [_launch(launch) for launch in record["launches"]],
        "environment": record["environment"],
        "correctness": {**correctness, "about": about},
        "plan": plan and {**plan, "plan": {name: plan[name] for name in plan if name in _PLAN}},
        "verdict": record["verdict"],
    }
    return msgspec.convert(msgspec.to_builtins(data), Record)


def _launch(launch: dict[str, Any]) -> dict[str, Any]:
    conditions = {name: fact for name, fact in launch.items() if name in _CONDITIONS}
    return {**launch, "conditions": conditions}
