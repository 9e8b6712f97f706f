"""The lines under the table that say which plans the pipelines ran."""

from collections.abc import Mapping
from typing import Any

from pytest_dnnbench.report.runs import Result, number
from pytest_dnnbench.report.study import Study


def plan_text(plan: object) -> str | None:
    """The shape of a plan, the replicas of its stages, as in 2-1; None where there is none."""
    shape = plan.get("shape") if isinstance(plan, Mapping) else None
    return shape if isinstance(shape, str) and shape else None


def plan_lines(study: Study) -> list[str]:
    """A line for each case with a plan; training and validation of one case may have the same."""
    lines = [_line(study.label(one), one, one.plan) for one in study.latest if plan_text(one.plan)]
    return ["", "plans (replicas of each stage)", *dict.fromkeys(lines)] if lines else []


def _line(series: str, result: Result, plan: Mapping[str, Any]) -> str:
    bubble = result.value("bubble_fraction")
    gpus = f"{result.gpus} GPU{'s' if result.gpus > 1 else ''}"
    text = f"  {series}, {result.model}, {gpus}, {result.phase}: {plan_text(plan)}"
    if plan.get("parallelism") == "data" and result.gpus > 1:
        text += ", pure data parallelism"
    if isinstance(plan.get("decided_by"), str):
        text += f", by the {plan['decided_by']}"
    if bubble is None:
        return text
    predicted, measured = (
        number(plan.get(f"{kind}_step_time_s")) for kind in ("predicted", "measured")
    )
    if predicted is not None and measured is not None:
        text += f"; {1e3 * predicted:.4g} ms a step predicted, {1e3 * measured:.4g} measured"
    return f"{text}, bubble {bubble:.0%}"
