"""Makes the record of a measured case (schema.py has its types).

Speed-up, which needs another case of the session, is added by speed_up.py; limits and verdict by
the session when it judges the case.
"""

from collections.abc import Sequence

from pytest_dnnbench.case import Case
from pytest_dnnbench.function_case import FunctionCase
from pytest_dnnbench.messages import RankReport
from pytest_dnnbench.metrics import metric_row
from pytest_dnnbench.results.records.breakdown import breakdown_of, troubles
from pytest_dnnbench.results.records.launches import Reasons, launches_of
from pytest_dnnbench.results.records.measurement import Launch, Measurement
from pytest_dnnbench.results.records.plan_entry import plan_entry
from pytest_dnnbench.results.records.prediction_entry import prediction_entry
from pytest_dnnbench.results.records.schema import (
    SCHEMA,
    LaunchEntry,
    MetricEntry,
    Note,
    Record,
    RunFacts,
)


def make_record(measurement: Measurement) -> Record:
    """The record of a case that was just measured: not judged, without speed-up."""
    reports = measurement.launches[0].reports
    sample = reports[0].sample
    reasons = [launch.conditions.disturbed for launch in measurement.launches]
    case = measurement.case
    return Record(
        schema=SCHEMA,
        case=case if isinstance(case, Case) else None,
        function=case if isinstance(case, FunctionCase) else None,
        run=RunFacts(
            sample=sample,
            samples_per_update=reports[0].samples_per_update,
            oversubscribed=measurement.oversubscribed,
            steps=measurement.steps,
            warmup=measurement.warmup,
            data=reports[0].data,
            parallel=measurement.parallel,
        ),
        metrics={
            name: metric_entry(
                name, figures.per_launch, figures.per_rank, sample=sample, reasons=reasons
            )
            for name, figures in measurement.values().items()
        },
        launches=[_launch_entry(launch) for launch in measurement.launches],
        environment=measurement.environment,
        correctness=measurement.correctness,
        plan=plan_entry(measurement),
        prediction=prediction_entry(measurement),
        details=[dict(report.details) for report in reports],
        breakdown=breakdown_of(measurement.launches),
        notes=[Note(kind="no trace", text=text) for text in troubles(measurement.launches)],
    )


def metric_entry(
    name: str,
    per_launch: Sequence[float],
    per_rank: Sequence[float] = (),
    *,
    sample: str = "sample",
    disturbed: Reasons = (),
    reasons: Reasons = (),
) -> MetricEntry:
    """One metric: its value is the median of the launches that count (launches.py). `sample` is the
    unit of the case's samples; `reasons` say why launches of the case were disturbed, `disturbed`
    the same of a quotient's."""
    row = metric_row(name)
    return MetricEntry(
        value=launches_of(name, per_launch, disturbed or reasons).middle,
        unit=row.unit_of(sample),
        better=row.better,
        per_launch=list(per_launch),
        per_rank=list(per_rank),
        disturbed=list(disturbed),
    )


def _launch_entry(launch: Launch) -> LaunchEntry:
    return LaunchEntry(
        step_time_s=launch.step_time_s,
        loss=launch.loss,
        rank_wall_s=[_wall_s(report) for report in launch.reports],
        page_faults=[report.page_faults for report in launch.reports],
        own_work_s=launch.own_work_s,
        conditions=launch.conditions,
        warmup_steps=max(report.warmup_steps for report in launch.reports),
        warmup_s=max(report.warmup_s for report in launch.reports),
        steady=launch.reports[0].steady,
    )


def _wall_s(report: RankReport) -> float:
    return report.window_end_s - report.window_start_s
