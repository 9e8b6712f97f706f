"""Reads the files that pytest-benchmark saves, into the types of schema.py.

Every field is checked against its type, and the figures that a comparison rests on against each
other. Errors name the file and the place in it. Names are shown and compared, never opened or
imported.
"""

import gc
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import msgspec

from pytest_dnnbench.errors import DataError, UsageError
from pytest_dnnbench.harmless import one_line
from pytest_dnnbench.metrics import are_ordinary, metric_row
from pytest_dnnbench.results.records.json_text import line_of, read_bytes
from pytest_dnnbench.results.records.profile_entry import BreakdownEntry
from pytest_dnnbench.results.records.schema import (
    SCHEMA,
    Record,
    SavedFile,
    SessionEntry,
)

_FILE = msgspec.json.Decoder(SavedFile)
_RECORD = msgspec.json.Decoder(Record)


class SavedRun(msgspec.Struct, frozen=True):
    """One saved session: its cases by the name that pytest gives them."""

    path: Path
    saved: str
    session: SessionEntry
    cases: dict[str, Record]

    @property
    def cut_off(self) -> str | None:
        """Why no case of this session may be a baseline; None when those that passed may be."""
        if self.session.interrupted and not self.session.accepted:
            return "its session was interrupted"
        return None

    @property
    def unfit(self) -> str | None:
        """Why this session, named alone, must not be a baseline; None when it may be one."""
        if self.session.accepted:
            return None
        if self.cut_off:
            return self.cut_off
        if failed := self.session.failed:
            more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
            return f"its session failed ({one_line(failed[0])}{more})"
        return None


def read_saved(path: Path) -> SavedRun:
    """Reads one file. Raises DataError naming the file and the place of the first thing that is
    wrong."""
    file = _decode(path, read_bytes(path))
    cases: dict[str, Record] = {}
    for number, benchmark in enumerate(file.benchmarks):
        record = benchmark.extra_info.dnnbench
        if record is None:
            continue
        place = f"{path}: benchmarks[{number}]"
        name = benchmark.fullname
        if not name or not name.isprintable():
            raise DataError(f"{place}.fullname: {name!r} is not the name of a case")
        if name in cases:
            raise DataError(
                f"{place}: the case {name} appears twice in this file: keep one of the two"
            )
        check_record(record, f"{place}.extra_info.dnnbench")
        cases[name] = record
    if not cases:
        raise DataError(
            f"{path} holds no case of pytest-dnnbench: was it saved by another benchmark?"
        )
    if file.dnnbench is None:
        raise DataError(
            f"{path} has no `dnnbench` section, which says whether its session is fit as a"
            " baseline: measure and save it again with this version"
        )
    _check_schema(f"{path}: dnnbench", file.dnnbench.schema)
    return SavedRun(path, file.datetime, file.dnnbench, cases)


@contextmanager
def no_collection() -> Iterator[None]:
    """Without Python's search for garbage in cycles. Records hold none, and to look through a
    million values of theirs takes longer than to read them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _decode(path: Path, content: bytes) -> SavedFile:
    try:
        with no_collection():
            return _FILE.decode(content)
    except (msgspec.ValidationError, UsageError) as error:
        _find_wrong_record(path, content)
        raise DataError(f"{path}: {error}") from None
    except msgspec.DecodeError as error:
        if (ours := _only_ours(content)) is not None:
            return _decode(path, ours)
        reason = str(error)
        digits = reason.rpartition("(byte ")[2].rstrip(")")
        position = int(digits) if digits.isdigit() else len(content)  # without one: it is cut off
        line = line_of(content, position)
        raise DataError(f"{path}, line {line}: not JSON, or cut off: {reason}") from None
    except UnicodeDecodeError:
        if (ours := _only_ours(content)) is not None:
            return _decode(path, ours)
        raise DataError(f"{path}{_line_of_text_error(content)}: not UTF-8 text") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply to be a baseline") from None


def _only_ours(content: bytes) -> bytes | None:
    """The file without what other benchmarks of the session keep in it, where that alone is no
    strict JSON: pytest-benchmark writes NaN for a NaN, and what others measure is not our business.
    None where the fault is ours too, or in the file's outline."""
    try:
        file = json.loads(content.decode("utf-8", "surrogateescape"))
        benchmarks = [
            {
                "fullname": each["fullname"],
                "extra_info": {"dnnbench": each["extra_info"]["dnnbench"]},
            }
            for each in file["benchmarks"]
            if each["extra_info"].get("dnnbench") is not None
        ]
        content_of_ours = {
            "benchmarks": benchmarks,
            **{name: file.get(name) for name in ("datetime", "dnnbench")},
        }
        ours = json.dumps(content_of_ours, allow_nan=False, ensure_ascii=False).encode()
        msgspec.json.decode(ours)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, msgspec.MsgspecError):
        return None
    return ours


def _line_of_text_error(content: bytes) -> str:
    """ ", line N" of the first byte that is no UTF-8."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return f", line {line_of(content, error.start)}"
    return ""


class _SchemaAlone(msgspec.Struct, frozen=True):
    schema: int = SCHEMA


class _RawInfo(msgspec.Struct, frozen=True):
    dnnbench: msgspec.Raw = msgspec.Raw(b"null")


class _RawBenchmark(msgspec.Struct, frozen=True):
    extra_info: _RawInfo


class _RawFile(msgspec.Struct, frozen=True):
    """A file of which only the outline need be right."""

    benchmarks: list[_RawBenchmark]
    dnnbench: _SchemaAlone | None = None


def _find_wrong_record(path: Path, content: bytes) -> None:
    """Raises DataError where decoding alone does not say what is wrong: for a newer schema, whose
    other types are no error of the file, and for a case that cannot be, with its place."""
    try:
        file = msgspec.json.decode(content, type=_RawFile)
        if file.dnnbench is not None:
            _check_schema(f"{path}: dnnbench", file.dnnbench.schema)
        for number, benchmark in enumerate(file.benchmarks):
            raw = benchmark.extra_info.dnnbench
            if bytes(raw) == b"null":
                continue
            place = f"{path}: benchmarks[{number}].extra_info.dnnbench"
            _check_schema(place, msgspec.json.decode(raw, type=_SchemaAlone).schema)
            try:
                _RECORD.decode(raw)
            except UsageError as error:
                raise DataError(f"{place}.case: {error}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return


def _check_schema(place: str, schema: int) -> None:
    if schema > SCHEMA:
        raise DataError(
            f"{place}: schema {schema} is newer than this version reads ({SCHEMA}):"
            " update pytest-dnnbench"
        )
    if schema != SCHEMA:
        raise DataError(f"{place}: schema {schema} is unknown: this version reads schema {SCHEMA}")


def check_record(record: Record, place: str) -> None:
    """Raises DataError, with the place, for figures of a record that contradict each other or
    cannot have been measured."""
    _check_schema(place, record.schema)
    for name, metric in record.metrics.items():
        if not name.isidentifier():
            raise DataError(f"{place}.metrics: {name!r} is not the name of a metric")
        row, launches = metric_row(name, metric.unit, metric.better), record.measured(name)
        if not metric.per_launch:
            _wrong(place, name, "no launch")
        if launches.reasons and len(launches.reasons) != len(launches.values):
            _wrong(
                place,
                name,
                f"{len(launches.values)} values, but {len(launches.reasons)} launches that say"
                " whether they were disturbed",
            )
        values = (*launches.values, metric.value)
        if not are_ordinary(values):
            for value in values:
                if impossible := row.impossible(value):
                    _wrong(place, name, impossible)
        if not min(metric.per_launch) <= metric.value <= max(metric.per_launch):
            _wrong(place, name, f"the value {metric.value!r} is not the median of per_launch")
    if record.breakdown is not None:
        _check_breakdown(record.breakdown, f"{place}.breakdown")
    if record.against is not None and record.against.breakdown is not None:
        _check_breakdown(record.against.breakdown, f"{place}.against.breakdown")
    for name, each in (record.against.compared if record.against else {}).items():
        if not each.is_possible:
            raise DataError(f"{place}.against.compared.{name}: no pairs can give these figures")
    for name, limit in record.thresholds.items():
        if limit.relative is not None and not -1 < limit.relative < 1:
            raise DataError(
                f"{place}.thresholds.{name}.relative: {limit.relative!r} is not between -1 and 1"
            )
        if limit.absolute is not None and not 0 < limit.absolute < math.inf:
            raise DataError(
                f"{place}.thresholds.{name}.absolute: {limit.absolute!r} is not finite and above"
                " zero"
            )


def _check_breakdown(entry: BreakdownEntry, place: str) -> None:
    """Raises DataError where launches, ranks and operators do not go together."""
    counts = {len(ranks) for ranks in entry.launches}
    if len(counts) != 1 or 0 in counts:
        raise DataError(f"{place}.launches: each must have the same ranks, one at least")
    for number, row in enumerate(entry.operators):
        shape = len(row.self_s), {len(row.calls), *map(len, row.self_s)}
        if shape != (len(entry.launches), counts):
            raise DataError(
                f"{place}.operators[{number}]: {one_line(row.name)!r} has not one figure for each"
                " launch and rank"
            )


def _wrong(place: str, metric: str, what: str) -> NoReturn:
    raise DataError(f"{place}.metrics.{metric}: {what}")
