"""Plans of pipelines as text: lines under the terminal's table, and lines for a case's details."""

from pytest_dnnbench.counted import counted
from pytest_dnnbench.report.facts import fact_line
from pytest_dnnbench.report.figures import amount
from pytest_dnnbench.report.runs import Result
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.results.records.schema import PlanEntry


def plan_lines(study: Study) -> list[str]:
    """A line for each case with a plan; training and validation of one case may have the same."""
    lines = [
        _line(study.label(result), result, result.record.plan)
        for result in study.latest
        if result.record.plan
    ]
    return ["", "plans (replicas of each stage)", *dict.fromkeys(lines)] if lines else []


def plan_details(plan: PlanEntry) -> list[str]:
    """How a pipeline was cut, what the plan predicted and what was measured. Operators and ranks
    are left out."""
    return [
        fact_line(
            {
                "shape": plan.shape,
                "parallelism": plan.parallelism,
                "decided by": plan.decided_by,
                "cost model": plan.plan.cost_model,
                "bandwidth bytes s": plan.bandwidth_bytes_s,
                "profile parts over whole": plan.profile_parts_over_whole,
            }
        ),
        f"predicted step time {amount(plan.predicted_step_time_s, 's')}",
        "predicted data parallel step time"
        f" {amount(plan.predicted_data_parallel_step_time_s, 's')}",
        f"measured step time {amount(plan.measured_step_time_s, 's')}",
    ]


def _line(series: str, result: Result, plan: PlanEntry) -> str:
    case = result.case
    gpus = counted(case.gpus, "GPU")
    text = f"  {series}, {case.model}, {gpus}, {case.phase}: {plan.shape}"
    if plan.parallelism == "data" and case.gpus > 1:
        text += ", pure data parallelism"
    text += f", by the {plan.decided_by}"
    bubble = result.value("bubble_fraction")
    if bubble is None:
        return text
    predicted, measured = 1e3 * plan.predicted_step_time_s, 1e3 * plan.measured_step_time_s
    text += f"; {predicted:.4g} ms a step predicted, {measured:.4g} measured"
    return f"{text}, bubble {bubble:.0%}"
