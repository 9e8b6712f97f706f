"""The journal: a session's launches on disk, each written as soon as it is measured, so that an
interrupted session can be continued.

A file of JSON lines: the first line holds a JournalHead, each further one a KeptLaunch. Lines are
appended and synchronised to the disk. Only the last line can be cut off by a crash; its launch is
measured again. While its session lives, the file is locked.
"""

import fcntl
import json
import os
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from pytest_dnnbench.case import Case
from pytest_dnnbench.errors import DataError, DnnbenchError, UsageError
from pytest_dnnbench.function_case import FunctionCase, MeasuredCase
from pytest_dnnbench.messages import PredictedStep, RankReport
from pytest_dnnbench.metrics import LOSS
from pytest_dnnbench.results.records.json_text import any_json, read_bytes
from pytest_dnnbench.results.records.measurement import Launch, Measurement
from pytest_dnnbench.results.records.record import make_record
from pytest_dnnbench.results.records.saved import check_record
from pytest_dnnbench.results.records.schema import Conditions, CorrectnessEntry, Environment

MOST_BYTES = 2 * 2**30
"""The largest journal that is read. A session of 1,000 cases and 50 launches has 100 MB."""

SCHEMA = 1
"""The version of the journal. History: 1, the first."""


class JournalHead(msgspec.Struct, frozen=True):
    """What must be alike before a session is continued: its cases, its options, and facts of the
    machine and the software. Options and facts are plain data."""

    cases: list[str]
    options: dict[str, Any]
    environment: dict[str, Any]
    schema: int = SCHEMA


class KeptLaunch(msgspec.Struct, frozen=True):
    """One launch of a case, with the case's plan, proof and prediction.

    `item` is the test's node id. Of `case` and `function` one is null, as in a record. `plan` is
    what the framework's planning returned; it is plain data when it is read back. `side` is B for a
    launch in the other environment of --dnn-against; `round` is the round of a launch that is one
    of a pair, from 1.
    """

    item: str
    case: Case | None
    plan: Any
    correctness: CorrectnessEntry
    reports: tuple[RankReport, ...]
    conditions: Conditions = Conditions()
    function: FunctionCase | None = None
    side: Literal["A", "B"] = "A"
    round: int = 0
    prediction: PredictedStep | None = None

    @property
    def measured_case(self) -> MeasuredCase | None:
        """What was measured; None in a line that says neither."""
        return self.case or self.function


_Line = TypeVar("_Line", JournalHead, KeptLaunch)


class Journal:
    """An open journal, locked. `kept` are the launches that it held when it was opened, `head` the
    session that they belong to. `cut_off`: its last line is incomplete.

    Opening raises DataError for a file that is damaged, or written by a later version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.head, self.kept, self.cut_off = _read(path)
        except BaseException:
            os.close(self._file)
            raise

    def begin(self, head: JournalHead) -> None:
        """Empties the journal for a new session."""
        os.ftruncate(self._file, 0)
        self.head, self.kept = head, []
        self._append(head)

    def go_on(self) -> None:
        """Drops a last line that was cut off, so that the next one stands by itself."""
        content = self.path.read_bytes()
        os.ftruncate(self._file, content.rfind(b"\n") + 1)

    def keep(self, launch: KeptLaunch) -> None:
        """Adds a launch; it is on the disk when this returns."""
        self._append(launch)

    def close(self) -> None:
        """Leaves the journal for a later session."""
        os.close(self._file)

    def discard(self) -> None:
        """Removes it: everything in it has been saved elsewhere."""
        self.path.unlink(missing_ok=True)
        os.close(self._file)

    def _append(self, line: JournalHead | KeptLaunch) -> None:
        # json and not msgspec.json, which writes an infinite loss as null.
        rest = memoryview(json.dumps(msgspec.to_builtins(line)).encode() + b"\n")
        while rest:
            rest = rest[os.write(self._file, rest) :]
        os.fsync(self._file)


def _read(path: Path) -> tuple[JournalHead | None, list[KeptLaunch], bool]:
    """The head, the launches, and whether the last line is cut off. An empty file has no head."""
    *lines, rest = read_bytes(path, MOST_BYTES).split(b"\n")
    if not lines:
        return None, [], bool(rest)
    raw = _json(path, 1, lines[0])
    if isinstance(raw, dict) and isinstance(raw.get("schema"), int) and raw["schema"] > SCHEMA:
        raise DataError(
            f"{path}: schema {raw['schema']} is newer than this version reads ({SCHEMA}): continue"
            " with the version that wrote it"
        )
    head = _convert(path, 1, raw, JournalHead)
    launches = []
    for number, line in enumerate(lines[1:], 2):
        launch = _convert(path, number, _json(path, number, line), KeptLaunch)
        if fault := _fault(launch):
            raise DataError(f"{path}, line {number}: {fault}; {_FIX}")
        launches.append(launch)
    return head, launches, bool(rest)


def _json(path: Path, number: int, line: bytes) -> Any:
    try:
        return any_json(path, line, above=number - 1)
    except DataError as error:
        raise DataError(f"{error}; {_FIX}") from None


def _convert(path: Path, number: int, raw: Any, line: type[_Line]) -> _Line:
    try:
        return msgspec.convert(raw, line)
    except (msgspec.ValidationError, UsageError) as error:
        raise DataError(f"{path}, line {number}: {error}; {_FIX}") from None


def _fault(launch: KeptLaunch) -> str:
    """Why this was never measured: no record can be made of it, or none that could be read back.
    Empty where nothing is wrong."""
    case = launch.measured_case
    if case is None:
        return "it names neither a case nor a function"
    ranks = [report.rank for report in launch.reports]
    if len(ranks) != case.gpus or ranks != list(range(len(ranks))):
        return f"the reports are not those of ranks 0 to {case.gpus - 1}"
    for report in launch.reports:
        steps = {len(report.step_index), len(report.step_end_s), len(report.step_samples)}
        if len(steps) > 1:
            return f"rank {report.rank}: step_index, step_end_s and step_samples differ in length"
    measurement = Measurement(
        case=case,
        launches=(Launch(launch.reports, launch.conditions),),
        correctness=launch.correctness,
        environment=Environment(must_match={}),
        oversubscribed=False,
        steps=1,
        warmup=0,
    )
    try:
        record = make_record(measurement)
        record.metrics.pop(LOSS, None)  # of a training that diverged it may be infinite
        check_record(record, "its record")
    except DnnbenchError as error:
        return str(error)
    except (ArithmeticError, LookupError, ValueError) as error:  # of any formula of the record
        return f"no figures follow from it ({error})"
    return ""


_FIX = "remove the file, or run without --dnn-resume, which sets it aside"
