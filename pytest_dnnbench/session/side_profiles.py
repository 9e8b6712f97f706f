"""Why one side of a pair is slower: the profiled steps of both sides beside each other.

Where a session's launches are not profiled anyway, a pair that differs in time gets profiled ones,
in the order A B B A. Not here: what of the profiles is a cause (results/verdicts/why.py).
"""

import msgspec

from pytest_dnnbench.controller.case_run import CaseRun
from pytest_dnnbench.errors import DnnbenchError
from pytest_dnnbench.harmless import one_line
from pytest_dnnbench.results.records.breakdown import breakdown_of, troubles
from pytest_dnnbench.results.records.measurement import Launch
from pytest_dnnbench.results.records.profile_entry import BreakdownEntry, WhyEntry
from pytest_dnnbench.results.records.schema import Note, Record
from pytest_dnnbench.results.records.side_by_side import Side
from pytest_dnnbench.results.verdicts.why import FEWEST, explain, unexplained

Profiles = dict[Side, BreakdownEntry | None]


def explain_pair(record: Record, a: CaseRun, b: CaseRun) -> None:
    """Adds to the record of a pair whose sides differ in time why they do, and the breakdowns that
    say so. Launches that fail cost the explanation alone."""
    other = record.against
    if other is None or (slower := other.slower) is None:
        return
    profiles: Profiles = {"A": record.breakdown, "B": other.breakdown}
    try:
        if any(each is None or len(each.launches) < FEWEST for each in profiles.values()):
            profiles = _profiled(record, a, b)
        why = _why(profiles, slower)
    except DnnbenchError as error:  # the comparison stands all the same
        why = unexplained(f"the profiled launches failed: {one_line(error)}")
    record.breakdown = profiles["A"]
    record.against = msgspec.structs.replace(other, breakdown=profiles["B"], why=why)


def _profiled(record: Record, a: CaseRun, b: CaseRun) -> Profiles:
    """The breakdowns of fresh launches."""
    runs: dict[Side, CaseRun] = {"A": a, "B": b}
    launches: dict[Side, list[Launch]] = {"A": [], "B": []}
    order: tuple[Side, Side] = ("A", "B")
    for _ in range(FEWEST):
        for side in order:
            launches[side] += runs[side].again(1, profiled=True)
        order = (order[1], order[0])
    for side in order:
        note_troubles(record, launches[side])
    return {side: breakdown_of(launches[side], FEWEST) for side in order}


def note_troubles(record: Record, launches: list[Launch]) -> None:
    """Says on the record which traces of its launches were not written."""
    record.notes += [Note(kind="no trace", text=text) for text in troubles(launches)]


def _why(profiles: Profiles, slower: Side) -> WhyEntry:
    faster: Side = "A" if slower == "B" else "B"
    before, now = profiles[faster], profiles[slower]
    if before is None or now is None:
        return unexplained("the framework completes no two steps on some rank")
    return explain(before, now, (f"side {faster}", f"side {slower}"))
