"""A plan for people: its stages as a table, with one GPU and data parallelism beside it.

What lives here: text. Not here: the figures (predict.py) or the arguments (command.py).
"""

import math
from collections.abc import Sequence

from pytest_dnnbench.counted import plural
from pytest_dnnbench.planner.plan import Plan, PlannedStage

COLUMNS = (
    "stage",
    "replicas",
    "operators",
    "compute ms",
    "weights MB",
    "output MB",
    "versions",
    "memory MB",
    "from, to",
)


def format_plan(plan: Plan) -> str:
    """The table as text, without a trailing newline."""
    lines = [f"{plan.cost_model} cost model, {_gpus(plan)}"]
    if plan.bottleneck_s is None:
        lines.append(f"infeasible: {plan.reason}")
    else:
        lines += [
            "",
            *aligned([COLUMNS, *(_row(number, s) for number, s in enumerate(plan.stages))]),
            "",
        ]
        lines.append(
            _time(f"this plan ({plan.shape})", plan.bottleneck_s, plan.single_s) + _about(plan)
        )
    memory = f", {plan.data_parallel_memory_bytes / 1e6:.1f} MB each"
    lines.append(_time("data parallelism", plan.data_parallel_s, plan.single_s) + memory)
    lines.append(_time("one GPU", plan.single_s, plan.single_s))
    lines += [f"doubtful: {remark}" for remark in plan.remarks]
    return "\n".join(lines)


def _gpus(plan: Plan) -> str:
    """As people write them: --gpus counts GPUs, which the planner calls workers."""
    total = math.prod(plan.workers)
    return f"{'x'.join(map(str, plan.workers))} {'GPU' if total == 1 else plural('GPU')}"


def _row(number: int, stage: PlannedStage) -> tuple[str, ...]:
    return (
        str(number),
        str(stage.replicas),
        str(len(stage.operators)),
        f"{stage.compute_s * 1e3:.3f}",
        f"{stage.parameter_bytes / 1e6:.2f}",
        f"{stage.output_bytes / 1e6:.2f}",
        str(stage.versions),
        f"{stage.memory_bytes / 1e6:.1f}",
        f"{stage.operators[0]}, {stage.operators[-1]}",
    )


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Right-aligned, except for the last column, which has names."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=False))
        + f"  {row[-1]}"
        for row in rows
    ]


def _time(name: str, seconds: float, single_s: float) -> str:
    faster = f", {single_s / seconds:.2f} times one GPU" if seconds else ""
    return f"{name + ':':24}{seconds * 1e3:10.3f} ms per minibatch{faster}"


def _about(plan: Plan) -> str:
    return ", pure data parallelism" if plan.is_data_parallel and plan.replicas[0] > 1 else ""
