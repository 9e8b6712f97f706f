"""The preflights of earlier sessions, from the storage. Unlike baselines, sessions in which a test
failed count too: their machines were as they were."""

from pathlib import Path

import msgspec

from pytest_dnnbench.errors import DataError
from pytest_dnnbench.results.baselines.stored_sessions import MOST_FILES, stored_files
from pytest_dnnbench.results.records.json_text import read_bytes
from pytest_dnnbench.results.records.preflight import PreflightEntry
from pytest_dnnbench.results.records.schema import SCHEMA

MOST_SESSIONS = 20
"""Older ones say little about the network of today."""


class _Session(msgspec.Struct, frozen=True):
    schema: int
    preflight: PreflightEntry | None = None


class _PreflightFile(msgspec.Struct, frozen=True):
    dnnbench: _Session | None = None


_DECODER = msgspec.json.Decoder(_PreflightFile)


def stored_preflights(folder: Path) -> list[PreflightEntry]:
    """Those of the newest sessions that have one, newest first. Files that cannot be read, and
    those of a newer version, are left out: the baseline says what is wrong with them."""
    entries: list[PreflightEntry] = []
    for _, _, path in stored_files(folder)[:MOST_FILES]:
        try:
            session = _DECODER.decode(read_bytes(path)).dnnbench
        except (DataError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        if not session or session.schema != SCHEMA or session.preflight is None:
            continue
        if session.preflight.is_possible:
            entries.append(session.preflight)
        if len(entries) == MOST_SESSIONS:
            break
    return entries
