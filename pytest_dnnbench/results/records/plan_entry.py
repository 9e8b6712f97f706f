"""Makes the entry of a pipeline's plan in a record (schema.PlanEntry)."""

import statistics

from pytest_dnnbench.messages import PipelineFacts
from pytest_dnnbench.results.records.launches import launches_of
from pytest_dnnbench.results.records.measurement import Launch, Measurement
from pytest_dnnbench.results.records.schema import PlanEntry, PlannedRank

# Of the device's allocator, or on a CPU of the whole process.
_PEAKS = ("allocated_peak_bytes", "resident_peak_bytes")


def plan_entry(measurement: Measurement) -> PlanEntry | None:
    """The plan with predicted and measured step time, and the memory of each rank; None for a case
    that is no pipeline."""
    launches = measurement.launches
    pipeline = launches[0].reports[0].pipeline
    if pipeline is None:
        return None
    decision = pipeline.decision
    return PlanEntry(
        plan=decision.plan,
        shape=pipeline.shape,
        parallelism=pipeline.parallelism,
        decided_by=decision.decided_by,
        bandwidth_bytes_s=decision.bandwidth_bytes_s,
        profile_parts_over_whole=decision.profile_parts_over_whole,
        predicted_step_time_s=pipeline.predicted_step_time_s,
        predicted_data_parallel_step_time_s=pipeline.predicted_data_parallel_step_time_s,
        measured_step_time_s=measured_step_time_s(measurement),
        ranks=[
            _rank(report.pipeline, max(_peaks(launches, rank), default=None))
            for rank, report in enumerate(launches[0].reports)
            if report.pipeline is not None
        ],
    )


def measured_step_time_s(measurement: Measurement) -> float:
    """The mean over the steps, and the median over the launches that count: to compare with a
    prediction, which knows no spread."""
    launches = measurement.launches
    return launches_of(
        "step_time_s",
        [statistics.fmean(launch.step_time_s) for launch in launches],
        [launch.conditions.disturbed for launch in launches],
    ).middle


def _rank(pipeline: PipelineFacts, peak_bytes: float | None) -> PlannedRank:
    return PlannedRank(
        stage=pipeline.stage,
        replica=pipeline.replica,
        versions_kept=pipeline.versions_kept,
        version_bytes=pipeline.version_bytes,
        stash_bytes=pipeline.stash_bytes,
        planned_memory_bytes=pipeline.planned_memory_bytes,
        peak_bytes=peak_bytes,
    )


def _peaks(launches: tuple[Launch, ...], rank: int) -> list[float]:
    """The peak of one rank in each launch, in bytes."""
    reports = [launch.reports[rank].metrics for launch in launches]
    return [metrics[name] for metrics in reports for name in _PEAKS if name in metrics]
