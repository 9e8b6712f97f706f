"""The journal: every measured launch of a session, kept as it is measured, so that a session can be
continued.

A file of JSON lines: the first says what was measured and where, each further one holds a launch.
Lines are appended and synchronised to the disk; a line that was cut off by a crash is the last one,
and its launch is measured again. Plain data, checked against the types as it is read. While its
session lives, the file is locked.

Schema history: 1, the first.
"""

import fcntl
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from pytest_dnnbench.errors import DataError
from pytest_dnnbench.messages import RankReport

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Head:
    """What must be alike before a session is continued: its cases, its options, where it runs."""

    cases: list[str]
    options: dict[str, Any]
    environment: dict[str, Any]
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class Kept:
    """One launch of a case: the test's node id, what was asked of the ranks, and what came of
    it."""

    item: str
    case: dict[str, Any]
    plan: dict[str, Any] | None
    correctness: dict[str, Any]
    reports: tuple[RankReport, ...]
    conditions: dict[str, Any] = field(default_factory=dict)


class Journal:
    """An open journal, locked. `kept` are the launches in it when it was opened, `head` what they
    belong to.

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

    def begin(self, head: Head) -> None:
        """Empties the journal for a new session."""
        os.ftruncate(self._file, 0)
        self.head, self.kept = head, []
        self._append(head)

    def go_on(self) -> None:
        """Drops a last line that was cut off, so that the next one stands by itself."""
        content = self.path.read_bytes()
        os.ftruncate(self._file, content.rfind(b"\n") + 1)

    def keep(self, launch: Kept) -> None:
        """Adds a launch; it is on the disk when this returns."""
        self._append(launch)

    def close(self) -> None:
        """Leaves the journal for a later session."""
        os.close(self._file)

    def discard(self) -> None:
        """Removes it: everything in it has been saved elsewhere."""
        self.path.unlink(missing_ok=True)
        os.close(self._file)

    def _append(self, line: Head | Kept) -> None:
        rest = memoryview(json.dumps(asdict(line)).encode() + b"\n")
        while rest:
            rest = rest[os.write(self._file, rest) :]
        os.fsync(self._file)


def _read(path: Path) -> tuple[Head | None, list[Kept], bool]:
    """The head, the launches, and whether a last line was cut off. An empty file has no head."""
    *lines, rest = path.read_bytes().split(b"\n")
    if not lines:
        return None, [], bool(rest)
    raw = _json(path, 1, lines[0])
    if isinstance(raw, dict) and isinstance(raw.get("schema"), int) and raw["schema"] > SCHEMA:
        raise DataError(
            f"{path} has schema {raw['schema']}, and this version reads {SCHEMA}: use the one that wrote it"
        )
    head = _convert(path, 1, raw, Head)
    kept = [
        _convert(path, number, _json(path, number, line), Kept)
        for number, line in enumerate(lines[1:], 2)
    ]
    return head, kept, bool(rest)


def _json(path: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number}: not JSON ({error}); {_FIX}") from None


def _convert(path: Path, number: int, raw: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise DataError(f"{path}, line {number}: {error}; {_FIX}") from None


_FIX = "remove the file, or run without --dnn-resume, which sets it aside"
