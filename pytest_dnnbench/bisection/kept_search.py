"""What is kept of a search, so that an interrupted one goes on where it was: a JSON file that is
replaced as a whole after every comparison.

Not here: what is decided from it (search.py).
"""

import math
import os
from pathlib import Path
from typing import TypeAlias

import msgspec

from pytest_dnnbench.errors import DataError, UsageError
from pytest_dnnbench.files import replace_file

SCHEMA = 1

FEWEST = 2
"""Pairs of a comparison: a spread takes as many."""

LARGEST = math.log(1e36)
"""The logarithm of a ratio of two figures that can be measured (metrics.py) is no larger."""

LEAST_SPREAD = 1e-3
"""The spread of a case's pairs counts as at least so much (0.1%) in its weight."""

HEAVIEST = 1.001 / LEAST_SPREAD**2
"""The weight of a case is its spread squared, inverted."""

Logs: TypeAlias = dict[str, list[float]]
"""Of each case: log(later / earlier) of each pair of launches."""


class CommitsOf(msgspec.Struct, frozen=True, tag="commits"):
    """Commits of a repository: its top folder, the shell command that builds a checkout (empty:
    none), and the folder of a checkout that is put on `sys.path`, relative to its top."""

    repository: str
    build: str = ""
    subfolder: str = ""


class VersionsOf(msgspec.Struct, frozen=True, tag="versions"):
    """Versions of a package."""

    package: str


class ComparedPlaces(msgspec.Struct, frozen=True):
    """One session: the two places that it compared, its pairs, and of each case what it said of why
    one of them is slower, in lines."""

    earlier: int
    later: int
    logs: Logs
    why: dict[str, list[str]] = {}


class UnderWay(msgspec.Struct, frozen=True):
    """A session that was started and has not ended: its two places, and its most rounds."""

    earlier: int
    later: int
    rounds: int


class Search(msgspec.Struct, kw_only=True):
    """A search. `places` names the commits or versions from good to bad; `arguments` are pytest's,
    which runs in `folder`.

    `metric` is searched for; at most `error` is the probability that the place named is wrong;
    `smallest` is the change that matters, a fraction, None for the metric's own; `rounds` are the
    most of the first session and `most_sessions` the most of the search, 0 for the default. `cases`
    are those that differ between good and bad, each with its weight; they alone are launched in
    later sessions, and the `others` are not. `unmeasurable` says of places why.
    """

    schema: int
    history: CommitsOf | VersionsOf
    places: list[str]
    arguments: list[str]
    folder: str
    metric: str
    error: float
    smallest: float | None
    rounds: int
    most_sessions: int = 0
    cases: dict[str, float] = {}
    others: list[str] = []
    comparisons: list[ComparedPlaces] = []
    unmeasurable: dict[int, str] = {}
    under_way: UnderWay | None = None
    ended: bool = False


def read_search(path: Path) -> Search:
    """Reads a search. Raises DataError, with the place, for a file that holds none."""
    try:
        search = msgspec.json.decode(path.read_bytes(), type=Search)
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no search to continue: leave --resume out") from None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(f"{path} holds no search that can be continued: {error}") from None
    if search.schema != SCHEMA:
        raise DataError(
            f"{path}: schema {search.schema} is not that of this version ({SCHEMA}):"
            " continue with the version that wrote it, or begin anew with --restart"
        )
    if wrong := _contradiction(search):
        raise DataError(f"{path}: {wrong}")
    return search


def _contradiction(search: Search) -> str | None:
    """What of a search cannot be; None where it is sound."""
    last = len(search.places) - 1
    if last < 1 or not {*search.unmeasurable} <= {*range(1, last)}:
        return "places: good and bad must be there, and measurable"
    if bool(search.cases) != bool(search.comparisons):
        return "cases and comparisons: either both are there or none"
    if search.comparisons and (search.comparisons[0].earlier, search.comparisons[0].later) != (
        0,
        last,
    ):
        return "comparisons[0] is not that of good and bad"
    if not all(0 < weight <= HEAVIEST for weight in search.cases.values()):
        return f"cases: a weight is not between 0 and {HEAVIEST:g}"
    for number, each in enumerate(search.comparisons):
        if not 0 <= each.earlier < each.later <= last:
            return f"comparisons[{number}] names a place that is not there"
        logs = [each.logs.get(case, []) for case in search.cases]
        if not all(len(pairs) >= FEWEST for pairs in logs):
            return f"comparisons[{number}] has not {FEWEST} pairs of each case"
        if not all(abs(log) <= LARGEST for pairs in logs for log in pairs):
            return f"comparisons[{number}] has a ratio that no pair can have"
    return None


def keep_search(path: Path, search: Search) -> None:
    """Replaces the file. Raises UsageError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, msgspec.json.format(msgspec.json.encode(search), indent=1))
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {os.strerror(error.errno or 0)}") from None
