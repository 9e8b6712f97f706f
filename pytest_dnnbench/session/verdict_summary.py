"""What the summary says of the verdicts: a count of each status, then a line per remark."""

from collections.abc import Mapping, Sequence

from pytest_dnnbench.results.records.schema import Note, Record
from pytest_dnnbench.results.verdicts.text import notes_of
from pytest_dnnbench.session.baseline import SessionBaseline

_MOST_BASELINES = 3
"""Files of a baseline that are named."""
_MOST_LINES = 12
"""Lines of one kind that are shown; a calibration is asked for by the user and shown whole."""


def verdict_lines(
    records: Mapping[str, Record], against: SessionBaseline, lacking: Sequence[str]
) -> list[str]:
    """The lines; none where there is neither a baseline nor a remark."""
    lines = _counts(records, against)
    for kind, remarks in _remarks(records, against, lacking).items():
        most = None if kind == "calibrated" else _MOST_LINES
        lines += [f"{kind}: {remark}" for remark in remarks[:most]]
        if most and len(remarks) > most:
            lines.append(f"{kind}: {len(remarks) - most} more")
    return lines


def _counts(records: Mapping[str, Record], against: SessionBaseline) -> list[str]:
    baseline = against.current
    if baseline is None:
        return []
    statuses = sorted(record.verdict.status for record in records.values())
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    lines = [f"verdicts against {_baselines(records, baseline.name)}: {counts}"]
    if not baseline.names():
        lines.append("NO BASELINE: no stored session is usable; save one with --benchmark-autosave")
    if left_out := [name for name in against.left_out() if name not in records]:
        lines.append(f"cases of the baseline left out on purpose: {len(left_out)}")
    return lines


def _baselines(records: Mapping[str, Record], newest: str | None) -> str:
    """The files that the cases were compared with, the newest first: a session that lacks some of
    them leaves those to the one before."""
    named = [record.verdict.against.file for record in records.values() if record.verdict.against]
    files = sorted({*named, *([newest] if newest else [])}, key=lambda file: file != newest)
    if len(files) > _MOST_BASELINES:
        return f"{', '.join(files[:1])} and {len(files) - 1} more"
    return ", ".join(files) or "nothing"


def _remarks(
    records: Mapping[str, Record], against: SessionBaseline, lacking: Sequence[str]
) -> dict[str, list[str]]:
    """Remarks by kind, in the order in which they are shown."""
    remarks: dict[str, list[str]] = {}
    baseline = against.current
    if baseline is not None:
        if baseline.names():
            remarks["THE BASELINE LACKS"] = [
                name for name, record in records.items() if record.verdict.status == "no-baseline"
            ]
            remarks["THIS RUN LACKS"] = list(lacking)
        remarks["passed over"] = baseline.passed_over
    for name, record in records.items():
        status = record.verdict.status
        kind = "NOT COMPARABLE" if status == "incomparable" else status
        notes = [Note(kind=kind, text=text) for text in notes_of(record.verdict)]
        for note in [*notes, *record.notes]:
            remarks.setdefault(note.kind, []).append(f"{name}: {note.text}")
    return remarks
