"""The lines under the table that say which plans the pipelines ran."""

from typing import Any

from pytest_dnnbench.results.record import Record


def render_plans(records: list[Record]) -> list[str]:
    """A line for each case with a plan; training and validation of one case may have the same."""
    lines = [_line(record, record["plan"]) for record in records if record.get("plan")]
    return ["", "plans (replicas of each stage)", *dict.fromkeys(lines)] if lines else []


def _line(record: Record, plan: dict[str, Any]) -> str:
    case, bubble = record["case"], record["metrics"].get("bubble_fraction")
    text = f"  {case['framework']}, {case['model']}, {case['gpus']} GPUs, {case['phase']}: {plan['shape']}"
    if plan["parallelism"] == "data":
        text += ", pure data parallelism" if case["gpus"] > 1 else ""
    text += f", by the {plan['decided_by']}"
    if bubble is None:
        return text
    text += f"; {1e3 * plan['predicted_step_time_s']:.1f} ms a step predicted, {1e3 * plan['measured_step_time_s']:.1f}"
    return f"{text} measured, bubble {bubble['value']:.0%}"
