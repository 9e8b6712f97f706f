"""One comparison of two places: a pytest session of both, side by side, in a process of its own.

    pytest ARGUMENTS of the user --dnn-against... --dnn-launches N --benchmark-json FILE
      its output ──> a log          its record ──> the pairs of each case

The session keeps a journal in a storage of its own; one that was interrupted is continued with
--dnn-resume. Not here: which places are compared (search.py).
"""

import math
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol

from pytest_dnnbench.bisection.kept_search import Logs, Search
from pytest_dnnbench.errors import DataError, DnnbenchError, UsageError
from pytest_dnnbench.metrics import METRICS
from pytest_dnnbench.results.records.saved import SavedRun, read_saved
from pytest_dnnbench.results.records.schema import Record
from pytest_dnnbench.results.records.side_by_side import SideMetric
from pytest_dnnbench.results.verdicts.side_by_side import pair_ratios
from pytest_dnnbench.results.verdicts.why import why_lines
from pytest_dnnbench.starting import started

TAKEN = (
    *("--benchmark-json", "--benchmark-storage", "--benchmark-disable", "--dnn-launches"),
    *("--dnn-path", "--dnn-against", "--dnn-against-path", "--dnn-against-limits", "--dnn-resume"),
    *("--dnn-false-alarms", "--dnn-report"),
)
"""Options of pytest that a search gives itself."""

_LAST_LINES = 3
_PATIENCE_S = 60.0
"""How long an interrupted session may take to save what it has."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """The interpreter of pytest, and the arguments that choose the two sides."""

    python: str
    options: tuple[str, ...]


class Sides(Protocol):
    """The places of a history as sides of a comparison. `noun` says what they are."""

    @property
    def noun(self) -> str:
        """What a place is: a commit, a version."""

    def label(self, place: str) -> str:
        """A short name."""

    def title(self, place: str) -> str:
        """A name that says more."""

    def arguments(self, earlier: str, later: str) -> Arguments:
        """Prepares two places and says how pytest measures them. Raises CannotMeasure."""

    def close(self) -> None:
        """Removes what was prepared."""


class CannotMeasure(DnnbenchError):
    """A place cannot be measured: it does not build, or does not run."""

    def __init__(self, place: str, why: str) -> None:
        super().__init__(f"{place}: {why}")
        self.place = place
        self.why = why


@dataclass(frozen=True, slots=True)
class SessionPairs:
    """What a session measured: the pairs of each case that has the metric, and how the session
    itself judged them; of a case whose later side failed, why; what metrics there are; and of each
    case, in lines, why one side is slower."""

    logs: Logs
    judged: Mapping[str, SideMetric]
    failures: Mapping[str, str]
    metrics: frozenset[str]
    why: Mapping[str, list[str]] = field(default_factory=dict)


class Sessions:
    """Runs the sessions of a search. `folder` is for their logs, journals and records."""

    def __init__(self, sides: Sides, folder: Path, *, shown: bool = False) -> None:
        self._sides = sides
        self._folder = folder
        self._shown = shown

    @property
    def log(self) -> Path:
        """What the session said."""
        return self._folder / "session.log"

    def compare(
        self, search: Search, places: tuple[str, str], rounds: int, *, resume: bool
    ) -> SessionPairs:
        """Compares two places. Raises CannotMeasure for one that cannot be prepared, and
        SessionFailed where the session measured nothing."""
        chosen = self._sides.arguments(*places)
        self._folder.mkdir(parents=True, exist_ok=True)
        record = self._folder / "session.json"
        record.unlink(missing_ok=True)
        command = [
            *(chosen.python, "-m", "pytest", *search.arguments, *chosen.options),
            *("--dnn-launches", str(rounds), "--dnn-false-alarms", str(search.error)),
            *("--benchmark-json", str(record), "--benchmark-storage", f"file://{self._folder}"),
            *("--dnn-github", "off", *_limits(search)),
            *(word for case in search.others for word in ("--deselect", case)),
            *(["--dnn-resume"] if resume else []),
        ]
        status = self._run(command, search.folder)
        if not record.exists() or not record.stat().st_size:
            raise SessionFailed(f"pytest ended with status {status}: {self._last_lines()}")
        try:
            return session_pairs(read_saved(record), search.metric)
        except DataError as error:
            raise SessionFailed(f"{error}: {self._last_lines()}") from None

    def _run(self, command: Sequence[str], folder: str) -> int:
        with self.log.open("wb") as log:
            output = None if self._shown else log
            with _passed_on() as signals:
                # In a process group of its own: Ctrl-C reaches it once, and from here.
                session = started(
                    lambda: subprocess.Popen(
                        command,
                        cwd=folder,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        process_group=0,
                    )
                )
                return signals.wait(session)

    def _last_lines(self) -> str:
        if self._shown:
            return "see its output above"
        lines = self.log.read_text(errors="replace").strip().splitlines()
        said = [line.strip() for line in lines if line.strip(" =-")]
        return " | ".join(said[-_LAST_LINES:]) + f" (see {self.log})" if said else "it said nothing"


class SessionFailed(DnnbenchError):
    """A session measured nothing of the cases; which side is to blame is not known."""


def _limits(search: Search) -> list[str]:
    """The options that ask for this metric alone, and for the change that matters."""
    limits = [
        f"{name}=off" for name, row in METRICS.items() if row.tolerance and name != search.metric
    ]
    if search.smallest is not None:
        sign = "-" if METRICS[search.metric].better == "higher" else "+"
        limits.append(f"{search.metric}={sign}{100 * search.smallest:g}%")
    return ["--dnn-against-limits", ",".join(limits)]


def session_pairs(run: SavedRun, metric: str) -> SessionPairs:
    """The pairs of a session."""
    logs, judged, failures = Logs(), dict[str, SideMetric](), dict[str, str]()
    why = {}
    for name, record in run.cases.items():
        other = record.against
        if other is None:
            continue
        if other.failure is not None:
            failures[name] = other.failure.strip().rpartition("\n")[2]
        elif pairs := _logs(record, metric):
            logs[name] = pairs
            if metric in other.compared:
                judged[name] = other.compared[metric]
            if lines := why_lines(other.why, "before it" if other.slower == "A" else "with it"):
                why[name] = lines
    metrics = frozenset(name for record in run.cases.values() for name in record.metrics)
    return SessionPairs(logs, judged, failures, metrics, why)


def _logs(record: Record, metric: str) -> list[float]:
    """Of each pair of a case, log(later / earlier); none where it has not the metric."""
    assert record.against is not None
    after = record.against.per_launch.get(metric)
    before = record.metrics.get(metric)
    if after is None or before is None:
        return []
    return [math.log(ratio) for ratio in pair_ratios(metric, before.per_launch, after)]


class _Signals:
    """SIGINT and SIGTERM of this process while it has a session: they are the session's, which
    saves what it has. Also those that come before it is there."""

    def __init__(self) -> None:
        self.came: list[int] = []
        self._session: subprocess.Popen[bytes] | None = None

    def take(self, number: int, _frame: FrameType | None) -> None:
        """The handler of a signal."""
        self.came.append(number)
        if self._session is not None:
            self._pass_on(self._session, number)

    def wait(self, session: "subprocess.Popen[bytes]") -> int:
        """Waits until a session has ended; returns its status."""
        self._session = session
        try:
            if self.came:
                self._pass_on(session, self.came[-1])
            return session.wait()
        finally:
            if session.poll() is None:
                session.terminate()
                try:
                    session.wait(_PATIENCE_S)
                except subprocess.TimeoutExpired:
                    session.kill()
                    session.wait()

    def _pass_on(self, session: "subprocess.Popen[bytes]", number: int) -> None:
        # Popen's own: a session that has ended, whose number may be another's, gets nothing.
        session.send_signal(number)
        if len(self.came) > 1:  # the user insists
            session.kill()


@contextmanager
def _passed_on() -> Iterator[_Signals]:
    """Keeps SIGINT and SIGTERM for a session, and raises KeyboardInterrupt at its end where one
    came."""
    signals = _Signals()
    in_main_thread = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if in_main_thread else ()
    before = {number: signal.signal(number, signals.take) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if signals.came:
            raise KeyboardInterrupt


def refuse_taken(arguments: Sequence[str]) -> None:
    """Raises UsageError for an argument of pytest that a search gives itself."""
    for argument in arguments:
        if argument.partition("=")[0] in TAKEN:
            raise UsageError(f"{argument}: a search gives this to pytest itself: leave it out")
    if not arguments:
        raise UsageError(
            "which cases? Write pytest's arguments after --, as in -- bench_cases -k resnet18"
        )
