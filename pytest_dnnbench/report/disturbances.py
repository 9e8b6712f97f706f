"""The line about disturbed launches (controller/disturbance.py says what counts as disturbed)."""

from collections.abc import Iterable

from pytest_dnnbench.counted import counted
from pytest_dnnbench.results.records.schema import Record


def disturbances(records: Iterable[Record]) -> str | None:
    """How many launches were disturbed, and by what the first of them; None when none was."""
    launches = [(record.measured_case, launch) for record in records for launch in record.launches]
    disturbed = [
        (case, launch.conditions.disturbed)
        for case, launch in launches
        if launch.conditions.disturbed
    ]
    if not disturbed:
        return None
    case, reason = disturbed[0]
    count = f"{len(disturbed)} of {counted(len(launches), 'launch')}"
    verb = "was" if len(disturbed) == 1 else "were"
    return f"{count} {verb} disturbed, the first in {case.label}: {reason}"
