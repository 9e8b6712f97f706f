"""Baselines: what the runs of a session are compared with, from stored sessions or a golden file.

    storage  0001_a.json 0002_a.json ...  ──┐
    a saved file                          ──┼──> Baseline.of(case, facts) ──> CaseBaseline | Incomparable | None
    a golden file (golden.py)             ──┘

Sessions that failed, were interrupted, or in which the case itself regressed are never part of one
unless accepted.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import msgspec

from pytest_dnnbench.errors import DataError, UsageError
from pytest_dnnbench.metrics import METRICS
from pytest_dnnbench.results.baselines.comparability import Difference, Facts, differences, facts
from pytest_dnnbench.results.baselines.limits import Limit, stored_limit
from pytest_dnnbench.results.records.saved import SavedRecord, SavedRun, read_saved
from pytest_dnnbench.results.statistics.noise import MEMORY, Noise, Prior, learn, prior_of
from pytest_dnnbench.results.statistics.suite_noise import pool

# Sessions that a case is compared with, at most: older ones say little about the machine of today.
# To find them, so many stored files are opened at most.
HISTORY, MOST_FILES = MEMORY, 50
# Cases that tell of each other's noise: more of them tell no more.
POOLED_CASES = 50

_STORED = re.compile(r"(?P<number>\d{4,})_(?P<name>.*)\.json")


@dataclass(frozen=True, slots=True)
class CaseBaseline:
    """What one case is compared with. `history`: per metric the launches of each session, oldest
    first; its latest sessions are the baseline. Disturbed launches are left out of the times in it;
    `disturbed` are the metrics of which nothing remains. `noise` is given where it is known from
    elsewhere than the history, `priors` where other cases tell something of it."""

    file: str
    saved: str | None
    sessions: int
    history: dict[str, list[list[float]]]
    limits: dict[str, Limit] = field(default_factory=dict)
    noise: dict[str, Noise] = field(default_factory=dict)
    priors: dict[str, Prior] = field(default_factory=dict)
    disturbed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Incomparable:
    """The baseline has the case, but of a run that may not be compared."""

    file: str
    saved: str | None
    differences: list[Difference]


class Baseline(Protocol):
    """What a session is compared with."""

    name: str

    @property
    def passed_over(self) -> list[str]:
        """Sessions, or times in them, that were not taken, each with the reason."""

    def names(self) -> list[str]:
        """The cases it has, by the name that pytest gives them."""

    def of(
        self, name: str, now: Facts, across: Collection[str] = ()
    ) -> CaseBaseline | Incomparable | None:
        """What to compare this case with; None when the baseline lacks it."""

    def stored(self, name: str) -> CaseBaseline | None:
        """What is stored of a case, to be run again where it was run last; None when the baseline
        lacks it."""


class StoredRuns:
    """A baseline of stored sessions, newest first; files are read when a case needs them.

    `alone`: the newest is the baseline by itself, and the others only tell the noise.
    """

    def __init__(self, paths: Sequence[Path], *, newest: SavedRun | None = None) -> None:
        self._unread = list(paths[:MOST_FILES])[::-1]
        self._alone = newest is not None
        self._runs = [newest] if newest else []
        self._priors: dict[str, Prior] = {}
        self._unfit: list[str] = []
        self._disturbed: dict[str, set[str]] = {}
        first = next(self._newest_first(), None)
        self.name = first.path.name if first else ""
        self._names = list(first.cases) if first else []

    @property
    def passed_over(self) -> list[str]:
        """As Baseline.passed_over."""
        return [
            *self._unfit,
            *(f"{file}: {disturbed_text(names)}" for file, names in self._disturbed.items()),
        ]

    def names(self) -> list[str]:
        """The cases of the newest session that is fit."""
        return self._names

    def of(
        self, name: str, now: Facts, across: Collection[str] = ()
    ) -> CaseBaseline | Incomparable | None:
        """Of the sessions since the newest accepted one, those that may be compared with `now`: a
        folder may hold the sessions of several machines."""
        found: list[tuple[SavedRun, SavedRecord]] = []
        unlike: Incomparable | None = None
        known: dict[tuple[bytes, bytes, bytes], list[Difference]] = {}
        for run in self._newest_first():
            record = run.cases.get(name)
            if record is not None and _fit(run, record):
                text = record.facts_text
                if text not in known:
                    known[text] = differences(_facts(*text), now, across)
                if not known[text]:
                    found.append((run, record))
                    if run.session.accepted or len(found) == HISTORY:
                        break
                elif unlike is None:
                    unlike = Incomparable(run.path.name, run.saved, known[text])
            if self._alone and not found:
                break
        return self._baseline(name, found[::-1]) if found else unlike

    def stored(self, name: str) -> CaseBaseline | None:
        """The history of the newest record that is fit."""
        records = (
            run.cases[name]
            for run in self._newest_first()
            if name in run.cases and _fit(run, run.cases[name])
        )
        newest = next(records, None)
        found = self.of(name, _facts(*newest.facts_text)) if newest else None
        return found if isinstance(found, CaseBaseline) else None

    def _newest_first(self) -> Iterator[SavedRun]:
        """Those that are whole and fit; why each other one was passed over is kept."""
        yield from self._runs
        while self._unread:
            path = self._unread.pop()
            try:
                run = read_saved(path, strict=not self._runs)
            except DataError as error:
                self._unfit.append(str(error))
                continue
            if run.unfit:
                self._unfit.append(f"{path.name}: {run.unfit}")
            else:
                self._runs.append(run)
                yield run

    def _baseline(self, name: str, found: list[tuple[SavedRun, SavedRecord]]) -> CaseBaseline:
        run, newest = found[-1]
        learnt = {metric: self._undisturbed(name, metric, found) for metric in newest.metrics}
        history, compared = learnt, found
        if self._alone:
            compared = found[-1:]
            history = {
                metric: self._undisturbed(name, metric, compared) for metric in newest.metrics
            }
        self._priors = self._priors or _priors([one for one, _ in found])
        return CaseBaseline(
            file=run.path.name,
            saved=run.saved,
            sessions=len(compared),
            history={metric: sessions for metric, sessions in history.items() if sessions},
            limits=_limits(newest),
            noise=_noise(learnt, self._priors) if self._alone and len(found) > 1 else {},
            priors=self._priors,
            disturbed=tuple(metric for metric, sessions in history.items() if not sessions),
        )

    def _undisturbed(
        self, name: str, metric: str, found: list[tuple[SavedRun, SavedRecord]]
    ) -> list[list[float]]:
        """The undisturbed launches of each session that has any."""
        sessions = []
        for run, record in found:
            if metric in record.metrics:
                if values := record.undisturbed(metric):
                    sessions.append(values)
                elif record.disturbed:
                    self._disturbed.setdefault(run.path.name, set()).add(name)
        return sessions


def storage_runs(folder: Path, wanted: str) -> StoredRuns:
    """The sessions in pytest-benchmark's folder: `latest`, those of one NAME, or the one of a
    NUMBER.

    Raises UsageError when NAME or NUMBER is not there, DataError when the one of a NUMBER is not
    fit or not whole.
    """
    stored = _stored(folder)
    if wanted.isdigit():
        chosen = [path for number, _, path in stored if number == int(wanted)]
        if not chosen:
            raise UsageError(f"--dnn-baseline {wanted}: {_nothing(folder, stored)}")
        earlier = [path for number, _, path in stored if number < int(wanted)]
        return StoredRuns(earlier, newest=read_fit(chosen[0]))
    paths = [path for _, name, path in stored if wanted in ("latest", name)]
    if wanted != "latest" and not paths:
        raise UsageError(
            f"--dnn-baseline {wanted}: no file of this path, and {_nothing(folder, stored)}"
        )
    return StoredRuns(paths)


def read_fit(path: Path) -> SavedRun:
    """A saved file that was asked for by name. Raises DataError when its session is not fit as a
    baseline."""
    run = read_saved(path)
    if run.unfit:
        raise DataError(
            f"{path} cannot be a baseline: {run.unfit}; if it is right as it is, run"
            f' `dnnbench baseline accept {path} --reason "..."`'
        )
    return run


def disturbed_text(cases: Collection[str]) -> str:
    """Why the times of these cases of a session are no part of a baseline."""
    more = f" and {len(cases) - 1} more" if len(cases) > 1 else ""
    return f"every launch of {min(cases)}{more} was disturbed: times are not taken"


def _stored(folder: Path) -> list[tuple[int, str, Path]]:
    """Newest first."""
    matches = (
        [(_STORED.fullmatch(path.name), path) for path in folder.glob("*.json")]
        if folder.is_dir()
        else []
    )
    found = ((int(match["number"]), match["name"], path) for match, path in matches if match)
    return sorted(found, reverse=True)


def _nothing(folder: Path, stored: list[tuple[int, str, Path]]) -> str:
    names = ", ".join(f"{number:04} ({name})" for number, name, _ in stored[:5])
    return f"{folder} holds {f'no such session; the newest are {names}' if stored else 'no saved session'}"


def _fit(run: SavedRun, record: SavedRecord) -> bool:
    return record.verdict.status != "regressed" or run.session.accepted is not None


@lru_cache(maxsize=8192)
def _facts(case: bytes, must_match: bytes, plan: bytes) -> Facts:
    decode = msgspec.json.decode
    return facts(decode(case), decode(must_match), decode(plan))


def _limits(record: SavedRecord) -> dict[str, Limit]:
    found = {
        metric: stored_limit(metric, one.relative, one.absolute, one.source)
        for metric, one in record.thresholds.items()
    }
    return {metric: limit for metric, limit in found.items() if limit is not None}


def _noise(history: dict[str, list[list[float]]], priors: dict[str, Prior]) -> dict[str, Noise]:
    return {
        metric: learn(sessions, priors.get(metric) or prior_of(metric))
        for metric, sessions in history.items()
        if _positive(sessions)
    }


def _priors(runs: Sequence[SavedRun]) -> dict[str, Prior]:
    """What the cases of these sessions of one machine, oldest first, tell of each other's noise."""
    names = list(runs[-1].cases)
    some = names[:: max(len(names) // POOLED_CASES, 1)]
    metrics = {
        metric for name in some for metric in runs[-1].cases[name].metrics if metric in METRICS
    }
    return {metric: pool(_histories(runs, some, metric), prior_of(metric)) for metric in metrics}


def _histories(
    runs: Sequence[SavedRun], names: Sequence[str], metric: str
) -> list[list[list[float]]]:
    histories = []
    for name in names:
        records = [
            run.cases[name] for run in runs if name in run.cases and _fit(run, run.cases[name])
        ]
        every = [record.undisturbed(metric) for record in records if metric in record.metrics]
        histories.append([launches for launches in every if launches])
    return [sessions for sessions in histories if sessions and _positive(sessions)]


def _positive(sessions: Sequence[Sequence[float]]) -> bool:
    return all(value > 0 for session in sessions for value in session)
