"""Predictions for people: a line for each framework. Not here: the figures (predictions.py)."""

from collections.abc import Sequence

from pytest_dnnbench.planner.predictions import Prediction, unpredicted
from pytest_dnnbench.planner.profile import Profile, number_in
from pytest_dnnbench.planner.table import aligned

COLUMNS = ("minibatches", "step ms", "{}/s", "efficiency", "memory MB", "shape", "framework")


_TOO_MUCH = "!"
"""Stands before the memory of a row that does not fit."""


def format_predictions(profile: Profile, rows: Sequence[Prediction]) -> list[str]:
    """The lines of the table. A profile without the size of its minibatches gives minibatches per
    second."""
    size = number_in(profile, "batch_size")
    of_size = f", minibatches of {size:.0f} samples" if size else ""
    unit = "samples" if size else "minibatches"
    head = [column.format(unit) for column in COLUMNS]
    lines = [
        f"predicted steps{of_size}",
        "",
        *aligned([head, *(_cells(row, size or 1.0) for row in rows)]),
    ]
    if not all(row.fits for row in rows):
        lines += ["", f"{_TOO_MUCH}: more than the memory of a GPU"]
    if "update_s" not in profile.metadata:
        lines += ["", "without the time of an update, which this profile does not have"]
    reasons = unpredicted(rows)
    if reasons:
        lines += ["", *(f"not predicted: {name}: {reason}" for name, reason in reasons.items())]
    return lines


def _cells(row: Prediction, size: float) -> list[str]:
    rate = f"{size / row.minibatch_s:.1f}" if row.minibatch_s else "-"
    return [
        str(row.minibatches),
        f"{row.step_s * 1e3:.3f}",
        rate,
        f"{row.efficiency:.1%}",
        f"{'' if row.fits else f'{_TOO_MUCH} '}{row.memory_bytes / 1e6:.1f}",
        row.shape,
        row.framework,
    ]
