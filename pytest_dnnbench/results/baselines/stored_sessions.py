"""Baselines: what the runs of a session are compared with.

    storage  0001_a.json 0002_a.json ...  ──┐
    a saved file                          ──┼──> Baseline.of(case, facts) ──> ComparedWith
    a golden file (golden.py)             ──┘                                 (case_baseline.py)

Interrupted sessions, and cases that failed or regressed, are never used as a baseline unless they
are accepted. A session that the user names must be whole, with no test failed.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from pytest_dnnbench.errors import DataError, UsageError
from pytest_dnnbench.metrics import METRICS, YARDSTICK, metric_row
from pytest_dnnbench.results.baselines.case_baseline import (
    CaseBaseline,
    ComparedWith,
    Incomparable,
    NoBaseline,
    Sessions,
)
from pytest_dnnbench.results.baselines.comparability import (
    Difference,
    Facts,
    alike,
    differences,
    facts_of,
    recorded_of,
)
from pytest_dnnbench.results.baselines.limits import stored_limits
from pytest_dnnbench.results.records.saved import SavedRun, read_saved
from pytest_dnnbench.results.records.schema import Record
from pytest_dnnbench.results.statistics.noise import (
    MEMORY,
    WINDOW,
    Noise,
    Prior,
    learn,
    median,
    prior_of,
)
from pytest_dnnbench.results.statistics.other_speeds import other_speeds
from pytest_dnnbench.results.statistics.suite_noise import pool

HISTORY = MEMORY
"""A case is compared with this many sessions at most: older ones say little about the machine of
today."""

MOST_FILES = 50
"""To find them, this many stored files are opened at most."""

POOLED_CASES = 50
"""This many cases say something about each other's noise at most: more would say no more."""

STORAGE = Path(".benchmarks")
"""Where pytest-benchmark stores sessions, a folder per machine."""

STORED = re.compile(r"(?P<number>\d{4,})_(?P<name>.*)\.json")
"""The name of a file in there."""


class Baseline(Protocol):
    """What a session is compared with."""

    name: str

    @property
    def passed_over(self) -> list[str]:
        """Sessions, or times in them, that were not used, each with the reason."""

    def names(self) -> list[str]:
        """Its cases, by the name that pytest gives them."""

    def facts(self) -> list[Facts]:
        """The facts of each of its cases, as the newest session has them."""

    def of(self, name: str, now: Facts, across: Collection[str] = ()) -> ComparedWith:
        """What to compare this case with. `across`: facts that may differ."""

    def stored(self, name: str) -> CaseBaseline | NoBaseline:
        """What is stored of a case that will run where it ran last."""


class _Stored(NamedTuple):
    """A case in one of the sessions."""

    run: SavedRun
    record: Record


class StoredRuns:
    """A baseline of stored sessions, newest first. A file is read when a case needs it.

    `paths` are the files, newest first. With `newest`, that session alone is the baseline, and the
    files serve only to estimate the noise.
    """

    def __init__(self, paths: Sequence[Path], *, newest: SavedRun | None = None) -> None:
        self._unread = list(paths[:MOST_FILES])[::-1]
        self._alone = newest is not None
        self._runs = [newest] if newest else []
        self._priors: dict[tuple[Path, ...], dict[str, Prior]] = {}
        self._unfit: list[str] = []
        self._failed: dict[str, set[str]] = {}
        self._disturbed: dict[str, set[str]] = {}
        self._yardsticks: dict[Path, float | None] = {}
        self._other_speeds: dict[str, float] = {}
        run = next((run for run in self._newest_first() if run.cases), None)
        self.name = run.path.name if run else ""
        self._names = list(run.cases) if run else []

    @property
    def passed_over(self) -> list[str]:
        """As Baseline.passed_over."""
        return [
            *self._unfit,
            *(f"{file}: {_failed_text(names)}" for file, names in self._failed.items()),
            *(f"{file}: {disturbed_text(names)}" for file, names in self._disturbed.items()),
            *(f"{file}: {speed_text(speed)}" for file, speed in self._other_speeds.items()),
        ]

    def names(self) -> list[str]:
        """The cases of the newest session that has any and was not interrupted."""
        return self._names

    def facts(self) -> list[Facts]:
        """As Baseline.facts."""
        return [facts_of(record) for run in self._runs[:1] for record in run.cases.values()]

    def of(self, name: str, now: Facts, across: Collection[str] = ()) -> ComparedWith:
        """Of the sessions since the newest accepted one, those that may be compared with `now`: a
        folder may hold the sessions of several machines."""
        comparable: list[_Stored] = []
        nearest: Incomparable | None = None
        compared: list[tuple[Record, list[Difference]]] = []
        for run, record in self._newest_of(name):
            if self._alone and not comparable and run is not self._runs[0]:
                break  # the newest session is the baseline, or there is none
            unlike = _unlike(record, now, across, compared)
            if not unlike:
                comparable.append(_Stored(run, record))
                if run.session.accepted or len(comparable) == HISTORY:
                    break
            elif nearest is None:
                nearest = Incomparable(run.path.name, run.saved, unlike)
        if not comparable:
            return nearest or NoBaseline()
        return self._baseline(name, comparable[::-1])

    def stored(self, name: str) -> CaseBaseline | NoBaseline:
        """The sessions that may be compared with the newest."""
        for _, record in self._newest_of(name):
            baseline = self.of(name, facts_of(record))
            return baseline if isinstance(baseline, CaseBaseline) else NoBaseline()
        return NoBaseline()

    def _newest_of(self, name: str) -> Iterator[_Stored]:
        """A case in the sessions that have it, newest first, where it may be a baseline. Notes in
        which it failed."""
        for run in self._newest_first():
            if is_fit(run, name):
                yield _Stored(run, run.cases[name])
            elif name in run.cases or name in run.session.failed:
                self._failed.setdefault(run.path.name, set()).add(name)

    def _newest_first(self) -> Iterator[SavedRun]:
        """The sessions that can be read and were not interrupted. Notes why the others were passed
        over."""
        yield from self._runs
        while self._unread:
            path = self._unread.pop()
            try:
                run = read_saved(path)
            except DataError as error:
                self._unfit.append(str(error))
                continue
            if run.cut_off:
                self._unfit.append(f"{path.name}: {run.cut_off}")
            else:
                self._runs.append(run)
                yield run

    def _baseline(self, name: str, sessions: list[_Stored]) -> CaseBaseline:
        """The baseline of a case, from its comparable sessions, oldest first."""
        run, newest = sessions[-1]
        compared = sessions[-1:] if self._alone else sessions
        usual = self._at_usual_speed(sessions)
        learnt = {
            metric: self._undisturbed(name, metric, usual if depends_on_speed(metric) else sessions)
            for metric in newest.metrics
        }
        history = (
            {metric: self._undisturbed(name, metric, compared) for metric in newest.metrics}
            if self._alone
            else learnt
        )
        priors = self._priors_of([run for run, _ in sessions], [run for run, _ in usual])
        return CaseBaseline(
            file=run.path.name,
            saved=run.saved,
            sessions=len(compared),
            history={metric: launches for metric, launches in history.items() if launches},
            limits=stored_limits(newest.thresholds),
            noise=_noise(learnt, priors) if self._alone and len(sessions) > 1 else {},
            priors=priors,
            disturbed=tuple(metric for metric, launches in history.items() if not launches),
            recorded=recorded_of(record for _, record in compared[-WINDOW:]),
            breakdown=next(
                (record.breakdown for _, record in compared[::-1] if record.breakdown), None
            ),
        )

    def _at_usual_speed(self, sessions: list[_Stored]) -> list[_Stored]:
        """Those in which the machine itself was as fast as in most; the others are noted. A session
        that the user named counts whatever its speed."""
        speeds = other_speeds([self._yardstick_s(run) for run, _ in sessions])
        if self._alone:
            speeds.pop(len(sessions) - 1, None)
        self._other_speeds |= {sessions[at].run.path.name: each for at, each in speeds.items()}
        return [each for at, each in enumerate(sessions) if at not in speeds]

    def _yardstick_s(self, run: SavedRun) -> float | None:
        """The machine's yardstick in a session: the median over its cases, seconds."""
        if run.path not in self._yardsticks:
            every = [_yardstick_s(record) for record in run.cases.values()]
            seconds = [each for each in every if each]
            self._yardsticks[run.path] = median(seconds) if seconds else None
        return self._yardsticks[run.path]

    def _priors_of(self, runs: list[SavedRun], usual: list[SavedRun]) -> dict[str, Prior]:
        """What the cases of these sessions say about each other, of times those at the machine's
        usual speed; learnt once for all cases that have the same sessions: those of a case that is
        new say little of the others."""
        sessions = tuple(run.path for run in runs)
        if sessions not in self._priors:
            self._priors[sessions] = _priors(runs, usual)
        return self._priors[sessions]

    def _undisturbed(self, name: str, metric: str, sessions: list[_Stored]) -> Sessions:
        """The undisturbed launches of each session that has any."""
        launches = []
        for run, record in sessions:
            if metric in record.metrics:
                if values := record.undisturbed(metric):
                    launches.append(values)
                elif record.disturbed:
                    self._disturbed.setdefault(run.path.name, set()).add(name)
        return launches


def storage_runs(folder: Path, source: str, saved_as: str | None = None) -> StoredRuns:
    """The sessions in pytest-benchmark's folder: `latest`, those of one NAME, or the one of a
    NUMBER. `saved_as` is the NAME of the present session, which may be the first of it.

    Raises UsageError when another NAME or a NUMBER is not there, DataError when the session of a
    NUMBER is damaged or not fit.
    """
    stored = stored_files(folder)
    if source.isdigit():
        chosen = [path for number, _, path in stored if number == int(source)]
        if not chosen:
            raise UsageError(f"--dnn-baseline {source}: {_nothing(folder, stored)}")
        earlier = [path for number, _, path in stored if number < int(source)]
        return StoredRuns(earlier, newest=read_fit(chosen[0]))
    paths = [path for _, name, path in stored if source in ("latest", name)]
    if source not in ("latest", saved_as) and not paths:
        raise UsageError(
            f"--dnn-baseline {source}: no file of this path, and {_nothing(folder, stored)}"
        )
    return StoredRuns(paths)


def read_fit(path: Path) -> SavedRun:
    """A saved file that the user named. Raises DataError when its session is not fit as a
    baseline."""
    run = read_saved(path)
    if run.unfit:
        raise DataError(
            f"{path} cannot be a baseline: {run.unfit}; if its results are right, run"
            f' `dnnbench baseline accept {path} --reason "..."`'
        )
    return run


def disturbed_text(cases: Collection[str]) -> str:
    """Why the times of these cases of a session are not used."""
    more = f" and {len(cases) - 1} more" if len(cases) > 1 else ""
    return f"every launch of {min(cases)}{more} was disturbed: times are not used"


def _unlike(
    record: Record,
    now: Facts,
    across: Collection[str],
    compared: list[tuple[Record, list[Difference]]],
) -> list[Difference]:
    """How a stored record differs from now. `compared` are the records that were compared before:
    most sessions of a storage are alike, and their answers too."""
    for other, unlike in compared:
        if alike(record, other):
            return unlike
    unlike = differences(facts_of(record), now, across)
    compared.append((record, unlike))
    return unlike


def stored_files(folder: Path) -> list[tuple[int, str, Path]]:
    """Number, name and path of each session of a storage, newest first."""
    if not folder.is_dir():
        return []
    matches = [(STORED.fullmatch(path.name), path) for path in folder.glob("*.json")]
    stored = ((int(match["number"]), match["name"], path) for match, path in matches if match)
    return sorted(stored, reverse=True)


def _nothing(folder: Path, stored: list[tuple[int, str, Path]]) -> str:
    if not stored:
        return f"{folder} holds no saved session"
    names = ", ".join(f"{number:04} ({name})" for number, name, _ in stored[:5])
    return f"{folder} holds no such session; the newest are {names}"


def is_fit(run: SavedRun, name: str) -> bool:
    """Whether a session has the case, and it may be a baseline: it passed, or the session was
    accepted. What other tests of the session did says nothing of it."""
    record = run.cases.get(name)
    if record is None or run.session.accepted is not None:
        return record is not None
    return record.verdict.status != "regressed" and name not in run.session.failed


def _failed_text(cases: Collection[str]) -> str:
    """Of cases of a session that failed in it, that they are not used."""
    more = f" and {len(cases) - 1} more" if len(cases) > 1 else ""
    return f"{min(cases)}{more} failed in it: not used"


def _noise(history: dict[str, Sessions], priors: dict[str, Prior]) -> dict[str, Noise]:
    return {
        metric: learn(sessions, priors.get(metric) or prior_of(metric))
        for metric, sessions in history.items()
        if _positive(sessions)
    }


def depends_on_speed(metric: str) -> bool:
    """Whether the machine's speed changes a metric: a time, and not what is exact."""
    return metric in METRICS and metric_row(metric).timed


def _yardstick_s(record: Record) -> float | None:
    values = record.undisturbed(YARDSTICK) if YARDSTICK in record.metrics else []
    return median(values) if values else None


def speed_text(speed: float) -> str:
    """Why the times of a session are not used."""
    pace = f"{abs(speed):.0%} {'slower' if speed < 0 else 'faster'}"
    return f"the machine itself was {pace} than in the other sessions: times are not used"


def _priors(runs: Sequence[SavedRun], usual: Sequence[SavedRun]) -> dict[str, Prior]:
    """What the cases of these sessions of one machine, oldest first, say about each other's
    noise; of times, `usual` ones."""
    newest = runs[-1].cases
    names = list(newest)[:: max(len(newest) // POOLED_CASES, 1)]
    metrics = {metric for name in names for metric in newest[name].metrics if metric in METRICS}
    return {
        metric: pool(
            _histories(usual if depends_on_speed(metric) else runs, names, metric),
            prior_of(metric),
        )
        for metric in metrics
    }


def _histories(runs: Sequence[SavedRun], names: Sequence[str], metric: str) -> list[Sessions]:
    histories = []
    for name in names:
        records = [run.cases[name] for run in runs if is_fit(run, name)]
        every = [record.undisturbed(metric) for record in records if metric in record.metrics]
        histories.append([launches for launches in every if launches])
    return [sessions for sessions in histories if sessions and _positive(sessions)]


def _positive(sessions: Sessions) -> bool:
    return all(value > 0 for session in sessions for value in session)
