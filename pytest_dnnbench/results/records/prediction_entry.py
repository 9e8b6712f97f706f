"""Makes the entry of a case's prediction in a record (schema.PredictionEntry)."""

import statistics

import msgspec

from pytest_dnnbench.messages import PredictedStep
from pytest_dnnbench.results.records.measurement import Measurement
from pytest_dnnbench.results.records.plan_entry import measured_step_time_s
from pytest_dnnbench.results.records.schema import CollectiveEntry, PredictionEntry

_NO_TIMES = "the plan that was given has no times in it"


def prediction_entry(measurement: Measurement) -> PredictionEntry | None:
    """What a step of training should have taken, beside what it took: of the plan of a pipeline, or
    of what the case was predicted to take. None where nobody asked, and no plan says."""
    if not measurement.case.has_phase(("train",)):
        return None
    asked = measurement.prediction is not None
    pipeline = measurement.launches[0].reports[0].pipeline
    if pipeline is not None:
        return _compared(
            measurement,
            pipeline.predicted_step_time_s,
            PredictionEntry(
                asked=asked,
                profile_parts_over_whole=pipeline.decision.profile_parts_over_whole,
                runtime_s=pipeline.decision.runtime_s,
            ),
        ) or (PredictionEntry(asked=True, refused=_NO_TIMES) if asked else None)
    predicted = measurement.prediction
    if predicted is None:
        return None
    if predicted.refused:
        return PredictionEntry(asked=True, refused=predicted.refused)
    return _compared(measurement, predicted.step_s, _parts(predicted))


def _parts(predicted: PredictedStep) -> PredictionEntry:
    return PredictionEntry(
        asked=True,
        compute_s=predicted.compute_s,
        exposed_s=predicted.exposed_s,
        update_s=predicted.update_s,
        memory_bytes=predicted.memory_bytes,
        overlaps=predicted.overlaps,
        collectives={
            name: CollectiveEntry(fixed_s=fixed_s, bytes_s=bytes_s)
            for name, (fixed_s, bytes_s) in predicted.collectives.items()
        },
        profile_parts_over_whole=predicted.profile_parts_over_whole,
    )


def _compared(
    measurement: Measurement, predicted_s: float, entry: PredictionEntry
) -> PredictionEntry | None:
    """The entry with both times. None where nothing takes time by the prediction, as in a plan of
    the user's own with no times in it."""
    if not predicted_s > 0:
        return None
    measured_s = measured_step_time_s(measurement)
    launch = measurement.launches[0]
    samples = launch.throughput * statistics.fmean(launch.step_time_s)  # of a step
    return msgspec.structs.replace(
        entry,
        step_time_s=predicted_s,
        measured_step_time_s=measured_s,
        error=measured_s / predicted_s - 1,
        throughput=samples / predicted_s,
    )
