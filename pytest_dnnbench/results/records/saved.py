"""Reads the files that pytest-benchmark saves: of each case what a comparison needs, and whether
the session is fit.

Only these fields are decoded (the rest of a file, nine tenths, is skipped at about a gigabyte a
second), each against its type. A case's facts stay undecoded until they differ. Names are shown and
compared, never opened or imported.
"""

import math
from pathlib import Path
from typing import Literal, NoReturn

import msgspec

from pytest_dnnbench.errors import DataError
from pytest_dnnbench.results.records.json_text import check_json, line_of, read_bytes
from pytest_dnnbench.results.records.launches import Launches, launches_of
from pytest_dnnbench.results.records.record import SCHEMA

# History: 1, the first.
SESSION_SCHEMA = 1


class Metric(msgspec.Struct, frozen=True, gc=False):
    """One metric of a saved case: its median and the value of each launch; of a quotient also the
    reasons for which one of its two launches was disturbed."""

    value: float
    unit: str
    better: Literal["higher", "lower"]
    per_launch: list[float]
    disturbed: list[str | None] = []


class Conditions(msgspec.Struct, frozen=True, gc=False):
    """In which one launch ran: why it was disturbed, or None."""

    disturbed: str | None = None


class Threshold(msgspec.Struct, frozen=True, gc=False):
    """A limit that the saved run holds later ones to; `relative` is signed, `absolute` in the
    metric's unit."""

    relative: float | None = None
    absolute: float | None = None
    source: str = "default"


class Environment(msgspec.Struct, frozen=True):
    """What must be alike, undecoded."""

    must_match: msgspec.Raw


class Confirmation(msgspec.Struct, frozen=True):
    """The launches of a case that was measured again before its verdict, and for each why it was
    disturbed."""

    per_launch: dict[str, list[float]] = {}
    disturbed: list[str | None] = []


class Verdict(msgspec.Struct, frozen=True):
    """How the case did against its own baseline."""

    status: str = "no-baseline"
    confirmation: Confirmation | None = None


class SavedRecord(msgspec.Struct, frozen=True):
    """The fields of a record that a comparison needs."""

    schema: int
    case: msgspec.Raw
    metrics: dict[str, Metric]
    environment: Environment
    thresholds: dict[str, Threshold] = {}
    plan: msgspec.Raw = msgspec.Raw(b"null")
    verdict: Verdict = Verdict()
    conditions: list[Conditions] = msgspec.field(name="launches", default_factory=list)

    def launches(self, metric: str) -> Launches:
        """Each launch's value, those of the confirmation included."""
        one, again = self.metrics[metric], self.verdict.confirmation
        if self._is_plain(metric):
            return Launches(tuple(one.per_launch))
        first = launches_of(
            metric, one.per_launch, one.disturbed or [each.disturbed for each in self.conditions]
        )
        if not again or metric not in again.per_launch:
            return first
        return first.followed_by(launches_of(metric, again.per_launch[metric], again.disturbed))

    def undisturbed(self, metric: str) -> list[float]:
        """The values of `launches` that were not disturbed."""
        return (
            self.metrics[metric].per_launch
            if self._is_plain(metric)
            else list(self.launches(metric).undisturbed)
        )

    def _is_plain(self, metric: str) -> bool:
        """Whether `launches` are the metric's own, undisturbed, as they nearly always are: a
        storage holds 100,000."""
        if self.verdict.confirmation is not None or self.metrics[metric].disturbed:
            return False
        for one in self.conditions:  # noqa: SIM110 - a generator would take three times as long
            if one.disturbed:
                return False
        return True

    @property
    def disturbed(self) -> bool:
        """Whether every launch was, those of the confirmation included."""
        again = self.verdict.confirmation
        reasons = [*(one.disturbed for one in self.conditions), *(again.disturbed if again else ())]
        return bool(reasons) and None not in reasons

    @property
    def facts_text(self) -> tuple[bytes, bytes, bytes]:
        """The facts as they stand in the file; equal texts are equal facts."""
        return bytes(self.case), bytes(self.environment.must_match), bytes(self.plan)


class Acceptance(msgspec.Struct, frozen=True):
    """Who took a session as the baseline although something in it failed or regressed, when, and
    why."""

    who: str
    when: str
    why: str


class Session(msgspec.Struct, frozen=True):
    """What a file says of its session as a whole."""

    schema: int
    failed: list[str] = []
    interrupted: bool = False
    accepted: Acceptance | None = None


class _Extra(msgspec.Struct):
    dnnbench: SavedRecord | None = None


class _Benchmark(msgspec.Struct):
    fullname: str
    extra_info: _Extra


class _File(msgspec.Struct):
    benchmarks: list[_Benchmark]
    datetime: str
    dnnbench: Session | None = None


class _OnlySchema(msgspec.Struct, frozen=True):
    schema: int = 0


class _SchemaExtra(msgspec.Struct, frozen=True):
    dnnbench: _OnlySchema | None = None


class _SchemaBenchmark(msgspec.Struct):
    extra_info: _SchemaExtra = _SchemaExtra()


class _Schemas(msgspec.Struct):
    benchmarks: list[_SchemaBenchmark] = []
    dnnbench: _OnlySchema | None = None


_FILE = msgspec.json.Decoder(_File)
_SCHEMAS = msgspec.json.Decoder(_Schemas)


class SavedRun(msgspec.Struct, frozen=True):
    """One saved session: its cases by the name that pytest gives them."""

    path: Path
    saved: str
    session: Session
    cases: dict[str, SavedRecord]

    @property
    def unfit(self) -> str | None:
        """Why this session must not be a baseline; None when it may."""
        if self.session.accepted:
            return None
        if self.session.interrupted:
            return "its session was interrupted"
        if failed := self.session.failed:
            return f"its session failed ({failed[0]}{f' and {len(failed) - 1} more' if len(failed) > 1 else ''})"
        return None


def read_saved(path: Path, *, strict: bool = True) -> SavedRun:
    """Reads one file. Raises DataError naming the file and the place of the first thing that is
    wrong.

    `strict` also looks for keys that stand twice in one object, which takes five times as long;
    leave it out only for files that people do not edit.
    """
    content = read_bytes(path)
    if strict:
        check_json(path, content)
    file = _decode(path, content)
    cases: dict[str, SavedRecord] = {}
    for number, benchmark in enumerate(file.benchmarks):
        record = benchmark.extra_info.dnnbench
        if record is None:
            continue
        place = f"{path}: benchmarks[{number}]"
        if not benchmark.fullname or not benchmark.fullname.isprintable():
            raise DataError(f"{place}.fullname: {benchmark.fullname!r} is not the name of a case")
        if benchmark.fullname in cases:
            raise DataError(
                f"{place}: the case {benchmark.fullname} stands twice in this file: keep one of them"
            )
        _check_record(record, f"{place}.extra_info.dnnbench")
        cases[benchmark.fullname] = record
    if not cases:
        raise DataError(
            f"{path} holds no case of pytest-dnnbench: was it saved by another benchmark?"
        )
    if file.dnnbench is None:
        raise DataError(
            f"{path}: no `dnnbench` section that tells whether its session was fit as a baseline:"
            " measure and save it again with this version"
        )
    if file.dnnbench.schema != SESSION_SCHEMA:
        raise DataError(_other_schema(f"{path}: dnnbench", file.dnnbench.schema, SESSION_SCHEMA))
    return SavedRun(path, file.datetime, file.dnnbench, cases)


def _decode(path: Path, content: bytes) -> _File:
    try:
        return _FILE.decode(content)
    except msgspec.ValidationError as error:
        _refuse_newer(path, content)
        raise DataError(f"{path}: {error}") from None
    except msgspec.DecodeError as error:
        at = str(error)
        digits = at.rpartition("(byte ")[2].rstrip(")")
        line = f", line {line_of(content, int(digits))}" if digits.isdigit() else ""
        raise DataError(f"{path}{line}: not JSON, or cut off: {at}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {line_of(content, error.start)}: not UTF-8 text") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply to be a baseline") from None


def _refuse_newer(path: Path, content: bytes) -> None:
    """A newer schema may have other types: then its number is what to tell."""
    try:
        found = _SCHEMAS.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    for number, benchmark in enumerate(found.benchmarks):
        record = benchmark.extra_info.dnnbench
        if record and record.schema > SCHEMA:
            raise DataError(
                _other_schema(
                    f"{path}: benchmarks[{number}].extra_info.dnnbench", record.schema, SCHEMA
                )
            )
    if found.dnnbench and found.dnnbench.schema > SESSION_SCHEMA:
        raise DataError(_other_schema(f"{path}: dnnbench", found.dnnbench.schema, SESSION_SCHEMA))


def _check_record(record: SavedRecord, place: str) -> None:
    if record.schema != SCHEMA:
        raise DataError(_other_schema(place, record.schema, SCHEMA))
    for raw, name in (
        (record.case, "case"),
        (record.environment.must_match, "environment.must_match"),
    ):
        if not bytes(raw).startswith(b"{"):
            raise DataError(f"{place}.{name}: expected an object")
    for name, metric in record.metrics.items():
        if not name.isidentifier():
            raise DataError(f"{place}.metrics: {name!r} is not the name of a metric")
        launches = record.launches(name)
        if not metric.per_launch:
            _wrong(place, name, "no launch")
        if launches.reasons and len(launches.reasons) != len(launches.values):
            told = f"{len(launches.reasons)} launches that say whether they were disturbed"
            _wrong(place, name, f"{len(launches.values)} values, and {told}")
        if not math.isfinite(sum(launches.values, metric.value)):
            _wrong(place, name, "a value is not finite")
        if not min(metric.per_launch) <= metric.value <= max(metric.per_launch):
            _wrong(place, name, f"the value {metric.value!r} is not the median of per_launch")
    for name, limit in record.thresholds.items():
        if limit.relative is not None and not -1 < limit.relative < 1:
            raise DataError(
                f"{place}.thresholds.{name}.relative: {limit.relative!r} is not between -1 and 1"
            )


def _wrong(place: str, metric: str, what: str) -> NoReturn:
    raise DataError(f"{place}.metrics.{metric}: {what}")


def _other_schema(place: str, found: int, known: int) -> str:
    if found > known:
        return f"{place}: schema {found} is newer than this version reads ({known}): update pytest-dnnbench"
    return f"{place}: schema {found} is unknown: this version reads schema {known}"
