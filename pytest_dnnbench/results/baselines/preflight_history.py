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


class _File(msgspec.Struct, frozen=True):
    dnnbench: _Session | None = None


_DECODER = msgspec.json.Decoder(_File)


def stored_preflights(folder: Path) -> list[PreflightEntry]:
    """Those of the newest sessions that have one, newest first. Files that cannot be read, and
    those of a newer version, are left out: the baseline says what is wrong with them."""
    entries: list[PreflightEntry] = []
    for _, _, path in stored_files(folder)[:MOST_FILES]:
        try:
            session = _DECODER.decode(read_bytes(path)).dnnbench
        except (DataError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        if session and session.schema == SCHEMA and session.preflight and _is_possible(session):
            entries.append(session.preflight)
        if len(entries) == MOST_SESSIONS:
            break
    return entries


def _is_possible(session: _Session) -> bool:
    """Whether every figure can have been measured."""
    entry = session.preflight
    assert entry is not None, "asked of sessions with one"
    figures = [second for node in entry.nodes for second in node.yardstick_s]
    figures += [figure for link in entry.links for figure in (*link.bytes_s, link.latency_s)]
    return all(node.yardstick_s for node in entry.nodes) and all(
        0 < figure < float("inf") for figure in figures
    )
