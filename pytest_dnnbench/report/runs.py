"""Sessions as a report shows them: their records, from a saved file or from memory.

A report shows even a broken session, where a baseline must refuse one. So a record that cannot be
shown is left out, a note says why, and the rest is shown; this is not the strict reader of
baselines (results/records/saved.py). Every text of a `Run` is printable and bounded, and every
figure that is drawn is finite.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pytest_dnnbench.case import Case
from pytest_dnnbench.errors import DataError, UsageError
from pytest_dnnbench.metrics import LARGEST, THROUGHPUT, can_be_measured
from pytest_dnnbench.report.text import NAME_LENGTH, TEXT_LENGTH, printable
from pytest_dnnbench.results.records.json_text import any_json, read_bytes
from pytest_dnnbench.results.records.launches import Launches, launches_of
from pytest_dnnbench.results.records.preflight import PreflightEntry
from pytest_dnnbench.results.records.saved import no_collection
from pytest_dnnbench.results.records.schema import SCHEMA, Record, SessionEntry

COMMIT_LETTERS = 12
"""Of a commit's name: as many as git takes for it in any repository, without an ellipsis."""

MESSAGE_LINES = 64
"""Lines kept of the message of a failed test."""

Struct = TypeVar("Struct")


@dataclass(frozen=True, slots=True)
class Result:
    """One case of one session. `run`: the number of its session in the study."""

    name: str
    record: Record
    run: int = 0

    @property
    def case(self) -> Case:
        """The case of training or validation that was measured; a timed function has none."""
        return self.record.trained_case

    @property
    def status(self) -> str:
        """The verdict in one word."""
        return self.record.verdict.status

    def metric_status(self, metric: str) -> str:
        """The verdict on one metric; of a metric that was not judged, that of the case where it
        was not compared, else "no-baseline"."""
        verdict = self.record.verdict
        if metric in verdict.metrics:
            return verdict.metrics[metric].status
        return "incomparable" if verdict.status == "incomparable" else "no-baseline"

    @property
    def step_time_s(self) -> list[list[float]]:
        """The raw samples of each launch: seconds of its timed steps."""
        return [launch.step_time_s for launch in self.record.launches]

    @property
    def throughput_unit(self) -> str:
        """As in img/s; empty without a throughput."""
        entry = self.record.metrics.get(THROUGHPUT)
        return entry.unit if entry else ""

    def value(self, metric: str) -> float | None:
        """The figure of a metric, the median of its undisturbed launches; None when the record has
        no such metric, and where too few launches were undisturbed."""
        entry = self.record.metrics.get(metric)
        if entry is None or not entry.per_launch:
            return entry.value if entry else None
        return self.launches(metric).figure

    @property
    def disturbed(self) -> int:
        """How many launches were disturbed."""
        return sum(1 for launch in self.record.launches if launch.conditions.disturbed)

    def launches(self, metric: str) -> Launches:
        """The metric's value in each launch, and why each launch was disturbed; no launches when
        the record has no such metric. Whatever a report says of launches comes from here."""
        entry = self.record.metrics.get(metric)
        if entry is None:
            return Launches(())
        reasons = [launch.conditions.disturbed for launch in self.record.launches]
        return launches_of(metric, entry.per_launch, entry.disturbed or reasons)


@dataclass(frozen=True, slots=True)
class Run:
    """One session: its cases of training and validation, its timed functions, what failed in it
    (name and message), and what was left out."""

    source: str
    saved: str
    commit: str = ""
    results: tuple[Result, ...] = ()
    functions: tuple[Result, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    interrupted: bool = False
    preflight: PreflightEntry | None = None
    """What was measured of its nodes, where it ran on several."""


def read_run(path: Path) -> Run:
    """The session in a file that pytest-benchmark saved. Raises DataError for a file that cannot
    be read, is of another kind, or has a newer schema."""
    # A NaN or a damaged text in one benchmark does not cost the others.
    content = any_json(path, read_bytes(path), errors="replace")
    try:
        return run_of(content, path.name)
    except DataError as error:
        # It begins with the file's name. Files of several folders may have the same.
        raise DataError(f"{printable(str(path.parent))}/{error}") from None


def read_runs(files: Iterable[Path], named: Collection[Path] = ()) -> tuple[list[Run], list[str]]:
    """The sessions in these files, and a line for each file that cannot be read and is passed over.
    Raises DataError for one of those that were named themselves."""
    runs: list[Run] = []
    damaged: list[str] = []
    with no_collection():
        for file in files:
            try:
                runs.append(read_run(file))
            except DataError as error:
                if file in named:
                    raise
                damaged.append(f"passed over: {error}")
    return runs, damaged


def distinct_runs(runs: Iterable[Run]) -> tuple[list[Run], list[str]]:
    """Each session once, and a line for each that came again: a copy of a session, counted as
    another, makes figures look surer than they are. Sessions are the same that were saved in the
    same microsecond and hold the same launches."""
    distinct: list[Run] = []
    notes = []
    for run in runs:
        same = next((each for each in distinct if run.saved and _same_session(each, run)), None)
        if same is None:
            distinct.append(run)
        else:
            notes.append(f"passed over: {run.source} holds the session of {same.source} again")
    return distinct, notes


def _same_session(run: Run, other: Run) -> bool:
    return (run.saved, run.results, run.functions) == (other.saved, other.results, other.functions)


def run_of(content: object, source: str) -> Run:
    """The session in the content of a saved file. Raises DataError for content of another kind or
    of a newer schema."""
    file = _mapping(content)
    shown = _Shown(printable(source, NAME_LENGTH))
    benchmarks = file.get("benchmarks")
    if not isinstance(benchmarks, list):
        raise DataError(
            f"{shown.source} holds no `benchmarks`: give a file that --benchmark-json or -save"
            " wrote"
        )
    for number, benchmark in enumerate(benchmarks):
        shown.add_benchmark(number, _mapping(benchmark))
    if shown.others:
        shown.notes.append(
            f"{shown.source}: {shown.others} benchmarks of other plugins are left out"
        )
    session = shown.session(file.get("dnnbench"))
    return Run(
        source=shown.source,
        saved=printable(file.get("datetime") or "", 40),
        commit=printable(_mapping(file.get("commit_info")).get("id") or "")[:COMMIT_LETTERS],
        results=tuple(shown.results),
        functions=tuple(shown.functions),
        failures=tuple((name, "") for name in session.failed),
        notes=tuple(shown.notes),
        interrupted=session.interrupted,
        preflight=session.preflight,
    )


def run_in_memory(
    records: Mapping[str, Record],
    *,
    saved: str = "",
    failures: Iterable[tuple[str, str]] = (),
    preflight: PreflightEntry | None = None,
) -> Run:
    """A session that was not saved: its records by the names of their tests, what failed (name and
    message), and what was measured of its nodes."""
    source = "this session"
    shown = _Shown(source)
    for name, record in records.items():
        shown.add(name, msgspec.to_builtins(record), source)
    return Run(
        source,
        saved,
        results=tuple(shown.results),
        functions=tuple(shown.functions),
        failures=tuple((printable(name, 2 * NAME_LENGTH), _lines(text)) for name, text in failures),
        notes=tuple(shown.notes),
        preflight=preflight,
    )


class _Shown:
    """What can be shown of one source, and the notes that say what is left out."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.results: list[Result] = []
        self.functions: list[Result] = []
        self.notes: list[str] = []
        self.others = 0

    def add_benchmark(self, number: int, benchmark: Mapping[str, Any]) -> None:
        """Adds a benchmark of a saved file, or counts one of another plugin."""
        record = _mapping(benchmark.get("extra_info")).get("dnnbench")
        if record is None:
            self.others += 1
            return
        place = f"{self.source}: benchmarks[{number}].extra_info.dnnbench"
        _refuse_newer(record, place)
        self.add(str(benchmark.get("fullname") or f"benchmark {number}"), record, place)

    def add(self, name: str, content: object, place: str) -> None:
        """Adds the result of a record's data, or a note that says why it is left out."""
        name = printable(name, 2 * NAME_LENGTH)
        try:
            record = _converted(content, Record)
            fault = _fault(record)
        except DataError as error:
            fault = str(error)
        if fault:
            self.notes.append(f"{place}: the case {name} is left out: {printable(fault)}")
        else:
            kind = self.results if record.function is None else self.functions
            kind.append(Result(name, record))

    def session(self, content: object) -> SessionEntry:
        """What a file says of its session; a note when that cannot be read."""
        if content is None:
            return SessionEntry(schema=SCHEMA)
        place = f"{self.source}: dnnbench"
        _refuse_newer(content, place)
        try:
            session = _converted(content, SessionEntry)
        except DataError as error:
            self.notes.append(f"{place}: {printable(error)}: failed tests are not shown")
            return SessionEntry(schema=SCHEMA)
        if session.preflight is not None and not session.preflight.is_possible:
            self.notes.append(f"{place}.preflight: figures that no node can have: not shown")
            session = msgspec.structs.replace(session, preflight=None)
        return session


def _converted(content: object, kind: type[Struct]) -> Struct:
    """Data as a struct of this kind. Raises DataError with the place and what is wrong there."""
    try:
        return msgspec.convert(_printable(content), kind)
    except (msgspec.ValidationError, UsageError) as error:  # UsageError: a Case checks itself
        raise DataError(str(error)) from None
    except RecursionError:
        raise DataError("nested too deeply") from None


def _printable(content: Any) -> Any:
    """The data with every text printable and bounded."""
    if isinstance(content, str):
        return _printable_text(content, TEXT_LENGTH)
    if isinstance(content, dict):
        return {
            _printable_text(key, NAME_LENGTH): value if type(value) in _PLAIN else _printable(value)
            for key, value in content.items()
        }
    if isinstance(content, (list, tuple)):
        if _NUMBERS.issuperset(map(type, content)):
            return content  # most of a file is lists of times
        return [_printable(value) for value in content]
    return content


# Sessions repeat each other's names, and most texts of a file are names.
_printable_text = lru_cache(4096)(printable)
_NUMBERS = frozenset({int, float})
_PLAIN = _NUMBERS | {bool, type(None)}


def _fault(record: Record) -> str:
    """The place and the value of the first figure that cannot be; empty when there is none."""
    if record.schema != SCHEMA:
        return f"schema {record.schema} is unknown: this version reads schema {SCHEMA}"
    for place, value in _measured(record):
        if not can_be_measured(value):
            return f"{place}: {value!r} is not a figure that can be measured"
    for place, value in _derived(record):
        if not abs(value) <= LARGEST:
            return f"{place}: {value!r} is not a figure that can be"
    for name in (*record.metrics, *record.verdict.metrics):
        if not name.isidentifier():
            return f"metrics: {name!r} is not the name of a metric"
    for name, entry in record.metrics.items():
        reasons = entry.disturbed or [launch.conditions.disturbed for launch in record.launches]
        if any(reasons) and len(reasons) != len(entry.per_launch):
            values = f"{len(entry.per_launch)} values and {len(reasons)} launches"
            return f"metrics.{name}.per_launch: {values}"
    return ""


def _measured(record: Record) -> Iterator[tuple[str, float]]:
    """Places and values of the measured figures, which plots draw."""
    for name, entry in record.metrics.items():
        yield f"metrics.{name}.value", entry.value
        for number, value in enumerate(entry.per_launch):
            yield f"metrics.{name}.per_launch[{number}]", value
    for number, launch in enumerate(record.launches):
        for step, value in enumerate(launch.step_time_s):
            yield f"launches[{number}].step_time_s[{step}]", value


def _derived(record: Record) -> Iterator[tuple[str, float]]:
    """Places and values of the figures shown of a verdict, a plan and the correctness."""
    for name, verdict in record.verdict.metrics.items():
        limits = verdict.limit, verdict.limit_absolute
        shown = (verdict.change, *verdict.interval, *limits, verdict.minimum_detectable)
        yield from ((f"verdict.metrics.{name}", value) for value in shown if value is not None)
    for kind in ("predicted", "predicted_data_parallel", "measured") if record.plan else ():
        yield f"plan.{kind}_step_time_s", getattr(record.plan, f"{kind}_step_time_s")
    for field in record.prediction.__struct_fields__ if record.prediction else ():
        value = getattr(record.prediction, field)
        if isinstance(value, float):
            yield f"prediction.{field}", value
    for kind in ("largest_deviation", "tolerance"):
        for name, value in getattr(record.correctness, kind).items():
            yield f"correctness.{kind}.{name}", value


def _refuse_newer(content: object, place: str) -> None:
    schema = _mapping(content).get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise DataError(
            f"{place}: schema {schema} is newer than this version reads ({SCHEMA}):"
            " update pytest-dnnbench"
        )


def _lines(message: str) -> str:
    """A message of several lines."""
    return "\n".join(printable(line) for line in message.splitlines()[:MESSAGE_LINES])


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
