"""One line about launches that were disturbed (controller/disturbance.py says what counts as
that)."""

from collections.abc import Sequence
from typing import Any


def disturbances(records: Sequence[dict[str, Any]]) -> str | None:
    """How many launches were disturbed, and by what the first of them; None when none was."""
    launches = [(record["case"], launch) for record in records for launch in record["launches"]]
    disturbed = [
        (case, launch["disturbed"]) for case, launch in launches if launch.get("disturbed")
    ]
    if not disturbed:
        return None
    case, reason = disturbed[0]
    name = f"{case['framework']}-{case['model']}-{case['gpus']}gpu ({case['phase']})"
    verb = "was" if len(disturbed) == 1 else "were"
    return f"{len(disturbed)} of {len(launches)} launches {verb} disturbed, the first in {name}: {reason}"
