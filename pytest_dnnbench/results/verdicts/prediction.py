"""Whether a step took as long as it was predicted to: the limit of --dnn-prediction-error.

Not here: how steps are predicted (rank/prediction.py), and verdicts against a baseline (judge.py).
"""

from pytest_dnnbench.results.records.schema import PredictionEntry, Record


def prediction_failure(record: Record, limit: float) -> str | None:
    """Why the case fails: its step took longer, or less long, than predicted, by more than a
    fraction `limit` of the prediction. None where it does not, where nothing was predicted, and
    where every launch was disturbed, because then nothing was measured that could be off."""
    entry = record.prediction
    if entry is None or entry.step_time_s is None or entry.error is None or record.disturbed:
        return None
    if abs(entry.error) <= limit or entry.measured_step_time_s is None:
        return None
    predicted, measured = 1e3 * entry.step_time_s, 1e3 * entry.measured_step_time_s
    return (
        f"prediction: a step takes {measured:.4g} ms, and {predicted:.4g} ms were predicted:"
        f" {entry.error:+.1%}, beyond --dnn-prediction-error {100 * limit:g}%{_doubt(entry)}"
    )


def _doubt(entry: PredictionEntry) -> str:
    if not entry.has_doubtful_profile:
        return ""
    return (
        f"; the profile is doubtful, its operators take {entry.profile_parts_over_whole:.2f} times"
        " as long as the whole model"
    )
