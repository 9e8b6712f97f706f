"""What stands in a record about the plan of a case: what was decided, what it promised, what came
of it."""

import statistics
from typing import Any

from pytest_dnnbench.results.records.measurement import Measurement

_OF_THE_PLAN = (
    "shape",
    "parallelism",
    "decided_by",
    "bandwidth_bytes_s",
    "profile_parts_over_whole",
)
_OF_A_RANK = (
    "stage",
    "replica",
    "versions_kept",
    "version_bytes",
    "stash_bytes",
    "planned_memory_bytes",
)


def plan_entry(measurement: Measurement) -> dict[str, Any] | None:
    """The plan with the predicted and the measured step time, and the memory of each rank; None
    without a plan.

    `peak_bytes` is the largest over the launches, of the device allocator or, on a CPU, of the
    whole process; `planned_memory_bytes` counts weights, activations, gradients and momentum only.
    """
    reports = measurement.launches[0].reports
    facts: dict[str, Any] = dict(reports[0].details)
    if "plan" not in facts:
        return None
    kind = "resident" if "resident" in reports[0].memory_bytes else "allocated"
    peaks = [
        max(peaks)
        for peaks in zip(
            *(launch.memory(kind) or [] for launch in measurement.launches), strict=True
        )
    ]
    return {
        **facts["plan"],
        **{key: facts[key] for key in _OF_THE_PLAN},
        "predicted_step_time_s": facts["predicted_step_time_s"],
        "predicted_data_parallel_step_time_s": facts["predicted_data_parallel_step_time_s"],
        "measured_step_time_s": statistics.median(
            statistics.fmean(launch.step_time_s) for launch in measurement.launches
        ),
        "ranks": [
            {**{key: report.details[key] for key in _OF_A_RANK}, "peak_bytes": peak}
            for report, peak in zip(reports, peaks, strict=True)
        ],
    }
