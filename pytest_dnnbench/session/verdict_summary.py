"""What the summary says of the verdicts: a count of each status, then a line per remark."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pytest_dnnbench.results.records.schema import Note, Record
from pytest_dnnbench.results.verdicts.text import held_lines, notes_of, worst_change
from pytest_dnnbench.session.baseline import SessionBaseline

_NOT_COMPARABLE = "NOT COMPARABLE"

_KINDS = {"incomparable": _NOT_COMPARABLE, "no-baseline": "limit noisy"}
"""What notes on a case are called that has this status; any other are called as the status. Without
a baseline they are about absolute limits alone."""

_MOST_BASELINES = 3
"""Files of a baseline that are named."""
_MOST_LINES = 12
"""Lines of one kind that are shown; a calibration is asked for by the user and shown whole."""
_MOST_ALIKE = 3
"""Cases that are named in a line which says the same of more."""


class _Remark(NamedTuple):
    """What is said of a case; of a session or a file, which has no name beside its text."""

    name: str
    text: str


def verdict_lines(
    records: Mapping[str, Record], against: SessionBaseline, lacking: Sequence[str]
) -> list[str]:
    """The lines; none where there is neither a baseline nor a remark."""
    lines = _counts(records, against)
    for kind, remarks in _remarks(records, against, lacking).items():
        texts = _texts(remarks)
        most = None if kind == "calibrated" else _MOST_LINES
        lines += [f"{kind}: {text}" for text in texts[:most]]
        if most and len(texts) > most:
            lines.append(f"{kind}: {len(texts) - most} more")
        if kind == _NOT_COMPARABLE:
            lines += _how_to_compare(records.values())
    return lines


def _texts(remarks: Iterable[_Remark]) -> list[str]:
    """A line for each thing that is said, with the cases that it is said of."""
    names_of: dict[str, list[str]] = {}
    for name, text in remarks:
        names_of.setdefault(text, []).append(name)
    return [
        f"{_shortened(names)}: {text}" if names[0] else text for text, names in names_of.items()
    ]


def _shortened(names: Sequence[str]) -> str:
    more = len(names) - _MOST_ALIKE
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:_MOST_ALIKE])} and {more} more"


def _how_to_compare(records: Iterable[Record]) -> list[str]:
    """The options that allow what differs, and what else there is to do."""
    facts = sorted({fact for record in records for fact in record.verdict.differs})
    if not facts:
        return []
    return [
        f"{_NOT_COMPARABLE}: --dnn-compare-across {','.join(facts)} compares all the same; once"
        " this session is saved, later ones are compared with it"
    ]


def _how_to_rename(new: Iterable[str], lacking: Iterable[str]) -> list[str]:
    """The command that gives the cases of the baseline the name of a test that has none there and
    has all their parameters; none where several tests could be meant."""
    tests = [_parameters_by_test(names) for names in (lacking, new)]
    return [
        f"if {name} was {old}, `dnnbench rename {old} {name} STORAGE` keeps its history"
        for old, parameters in tests[0].items()
        for name, others in tests[1].items()
        if parameters == others
        and [*tests[0].values()].count(parameters) == [*tests[1].values()].count(parameters) == 1
    ]


def _parameters_by_test(names: Iterable[str]) -> dict[str, set[str]]:
    tests: dict[str, set[str]] = {}
    for name in names:
        test, _, parameters = name.partition("[")
        tests.setdefault(test, set()).add(parameters)
    return tests


def _counts(records: Mapping[str, Record], against: SessionBaseline) -> list[str]:
    baseline = against.current
    if baseline is None:
        return []
    statuses = sorted(record.verdict.status for record in records.values())
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    lines = []
    if baseline.names() or {*statuses} != {"no-baseline"}:
        lines.append(f"verdicts against {_baselines(records, baseline.name)}: {counts}")
    if not baseline.names():
        lines.append(f"NO BASELINE: no stored session is usable; {against.how_to_store()}")
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
) -> dict[str, list[_Remark]]:
    """Remarks by kind, in the order in which they are shown; of cases the worst first."""
    remarks: dict[str, list[_Remark]] = {}
    baseline = against.current
    if baseline is not None:
        if baseline.names():
            remarks["THE BASELINE LACKS"] = [
                _Remark("", name)
                for name, record in records.items()
                if record.verdict.status == "no-baseline"
            ]
            remarks["THIS RUN LACKS"] = [_Remark("", name) for name in lacking]
            new = [remark.text for remark in remarks["THE BASELINE LACKS"]]
            remarks["RENAMED?"] = [_Remark("", text) for text in _how_to_rename(new, lacking)]
        remarks["passed over"] = [_Remark("", text) for text in baseline.passed_over]
    for name, record in sorted(records.items(), key=lambda each: -worst_change(each[1].verdict)):
        status = record.verdict.status
        kind = _KINDS.get(status, status)
        held = held_lines(record.verdict, record.metrics)
        notes = [Note(kind="limit held", text=text) for text in held]
        notes += [Note(kind=kind, text=text) for text in notes_of(record.verdict)]
        for note in [*notes, *record.notes]:
            remarks.setdefault(note.kind, []).append(_Remark(name, note.text))
    return remarks
