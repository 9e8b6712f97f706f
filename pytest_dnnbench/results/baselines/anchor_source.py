"""What `--dnn-anchor` names: a reference that stays where it is while the baseline moves along.

first     the first sessions of the storage that may be compared, since the newest acceptance
else      as --dnn-baseline: a NAME or NUMBER of the storage, a saved file, a golden file
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from pytest_dnnbench.errors import DataError, UsageError
from pytest_dnnbench.results.baselines.baseline_source import load_baseline
from pytest_dnnbench.results.baselines.case_baseline import CaseBaseline, ComparedWith, NoBaseline
from pytest_dnnbench.results.baselines.comparability import Facts, differences, facts_of
from pytest_dnnbench.results.baselines.stored_sessions import is_fit, stored_files
from pytest_dnnbench.results.records.saved import SavedRun, read_saved
from pytest_dnnbench.results.records.schema import Acceptance, Record
from pytest_dnnbench.results.statistics.noise import WINDOW

FIRST = "first"

MOST_FILES = 50
"""So many of the oldest files are opened at most to find the first sessions of a case."""


class AnchorSource(Protocol):
    """What gives each case its anchor."""

    name: str

    def of(self, name: str, now: Facts, across: Collection[str] = ()) -> ComparedWith:
        """The sessions of this case that are the anchor. `across`: facts that may differ."""


def load_anchor(source: str, storage: Path) -> AnchorSource:
    """The anchor. Raises UsageError for one that is not there or that moves, DataError for one that
    is damaged or not fit."""
    if source == "latest":
        raise UsageError(
            "--dnn-anchor latest moves with every session: name a fixed one, as in first, a NUMBER"
            " of the storage, or a file"
        )
    if source != FIRST:
        return load_baseline(source, storage)
    paths = [path for _, _, path in reversed(stored_files(storage))]
    if not paths:
        raise UsageError(
            f"--dnn-anchor {FIRST}: {storage} holds no saved session: save"
            " one with --benchmark-autosave, without an anchor"
        )
    return FirstSessions(_since_acceptance(paths))


class FirstSessions:
    """The first sessions of files, oldest first. A file is read when a case needs it."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._unread = list(paths[:MOST_FILES])[::-1]
        self._runs: list[SavedRun] = []
        self.name = f"the first sessions since {paths[0].name}"

    def of(self, name: str, now: Facts, across: Collection[str] = ()) -> ComparedWith:
        """As AnchorSource.of."""
        comparable: list[tuple[SavedRun, Record]] = []
        for run in self._oldest_first():
            if not is_fit(run, name):
                continue
            record = run.cases[name]
            if not differences(facts_of(record), now, across):
                comparable.append((run, record))
            if len(comparable) == WINDOW:
                break
        if not comparable:
            return NoBaseline()
        first = comparable[0]
        launches = {
            metric: [record.undisturbed(metric) for _, record in comparable]
            for metric in first[1].metrics
            if all(metric in record.metrics for _, record in comparable)
        }
        return CaseBaseline(
            file=first[0].path.name,
            saved=first[0].saved,
            sessions=len(comparable),
            history={
                metric: undisturbed
                for metric, sessions in launches.items()
                if (undisturbed := [session for session in sessions if session])
            },
        )

    def _oldest_first(self) -> Iterator[SavedRun]:
        yield from self._runs
        while self._unread:
            try:
                run = read_saved(self._unread.pop())
            except DataError:
                continue  # the baseline names it where it is among the latest
            if not run.cut_off:
                self._runs.append(run)
                yield run


class _Head(msgspec.Struct):
    """Of a saved file no more than whether it was accepted."""

    accepted: Acceptance | None = None


class _AcceptanceFile(msgspec.Struct):
    dnnbench: _Head | None = None


def _since_acceptance(paths: Sequence[Path]) -> Sequence[Path]:
    """The files from the newest accepted one on: what was accepted begins a new history."""
    for place in range(len(paths) - 1, 0, -1):
        try:
            head = msgspec.json.decode(paths[place].read_bytes(), type=_AcceptanceFile).dnnbench
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        if head and head.accepted:
            return paths[place:]
    return paths
