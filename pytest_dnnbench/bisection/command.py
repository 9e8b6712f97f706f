"""`dnnbench bisect`: its arguments, and a search from its begin or from where it stopped."""

import argparse
import fcntl
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from pytest_dnnbench.bisection import words
from pytest_dnnbench.bisection.commits import Checkouts, commits_between, repository_of
from pytest_dnnbench.bisection.comparing import SessionPairs, Sessions, Sides, refuse_taken
from pytest_dnnbench.bisection.kept_search import (
    SCHEMA,
    CommitsOf,
    Search,
    VersionsOf,
    keep_search,
    read_search,
)
from pytest_dnnbench.bisection.search import NoDifference, SearchProgress, run_search
from pytest_dnnbench.bisection.versions import (
    Environments,
    released_versions,
    versions_between,
)
from pytest_dnnbench.errors import DataError, DnnbenchError, UsageError
from pytest_dnnbench.harmless import say
from pytest_dnnbench.metrics import METRICS, THROUGHPUT
from pytest_dnnbench.results.statistics.paired import FIRST_LOOK, MOST_ROUNDS
from pytest_dnnbench.results.verdicts.side_by_side import NOT_OF_A_PAIR

STATE = Path(".benchmarks") / "dnnbench-bisect.json"
INTERRUPTED = 130
"""What a shell reports of a program that Ctrl-C ended."""


def main(arguments: list[str]) -> int:
    """Exit status: 0 the change was found; 1 good and bad do not differ, or the search is not
    settled; 130 interrupted. Raises UsageError, and what keeps good or bad from being measured."""
    ours, dashes, pytests = _split(arguments)
    options = _parser().parse_args(ours)
    path = Path(options.state)
    with _alone(path), _sigterm_as_interrupt():
        if options.resume:
            search = _continued(options, path, dashes)
        else:
            search = _new(options, pytests)
            _make_way(path, restart=options.restart)
        keep_search(path, search)
        sides = _sides(search, path)
        say(words.about_line(search, sides))
        folder = path.parent / f"{path.stem}-session"
        return _searched(
            search, sides, Sessions(sides, folder.absolute(), shown=options.show), path
        )


def _searched(search: Search, sides: Sides, sessions: Sessions, path: Path) -> int:
    def tell(progress: SearchProgress) -> None:
        first = len(search.comparisons) == 1 and progress.skipped is None
        line = words.progress_line(search, progress, sides, first=first)
        say(f"{len(search.comparisons)}: {line}")
        sys.stdout.flush()

    def compare(
        search: Search, places: tuple[str, str], rounds: int, *, resume: bool
    ) -> SessionPairs:
        a, b = map(sides.label, places)
        say(f"comparing {a} with {b}; the session's output is in {sessions.log}", sys.stderr)
        return sessions.compare(search, places, rounds, resume=resume)

    try:
        answer = run_search(search, compare, lambda: keep_search(path, search), tell)
    except KeyboardInterrupt:
        say(f"interrupted; {path} has what was measured: {_continue(path)}", sys.stderr)
        return INTERRUPTED
    except DnnbenchError as error:
        raise UsageError(f"{error}. What was measured is in {path}: {_continue(path)}") from error
    if isinstance(answer, NoDifference):
        lines, status = words.no_difference_lines(search, answer, sides), 1
    else:
        lines, status = words.ending_lines(search, answer, sides), int(not answer.settled)
    if isinstance(answer, NoDifference) or answer.settled:
        search.ended = True
        keep_search(path, search)
        sides.close()
    else:
        lines.insert(0, f"to go on: {_continue(path)} --most-sessions N")
    say("\n".join(lines))
    return status


def _continue(path: Path) -> str:
    state = "" if path == STATE else f" --state {path}"
    return f"continue with dnnbench bisect --resume{state}"


def _split(arguments: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    """Our arguments, whether there is a --, and pytest's after it."""
    if "--" not in arguments:
        return list(arguments), False, []
    place = arguments.index("--")
    return list(arguments[:place]), True, list(arguments[place + 1 :])


def _new(options: argparse.Namespace, pytests: list[str]) -> Search:
    refuse_taken(pytests)
    if options.retry_skipped:
        raise UsageError("--retry-skipped is for a search that goes on: give --resume too")
    _check_metric(options)
    history, places = _history(options)
    return Search(
        schema=SCHEMA,
        history=history,
        places=places,
        arguments=pytests,
        folder=os.getcwd(),
        metric=options.metric,
        error=options.error,
        smallest=options.smallest,
        rounds=options.launches,
        most_sessions=options.most_sessions or 0,
    )


def _check_metric(options: argparse.Namespace) -> None:
    if why := NOT_OF_A_PAIR.get(options.metric):
        raise UsageError(f"--metric {options.metric} cannot be searched for: {why}")
    if options.metric not in METRICS:
        choices = ", ".join(name for name in METRICS if name not in NOT_OF_A_PAIR)
        raise UsageError(f"--metric {options.metric}: choose from {choices}")
    if options.smallest is None and METRICS[options.metric].tolerance is None:
        raise UsageError(
            f"--metric {options.metric}: by default no change of it matters: say which does, as in"
            " --smallest 3%"
        )


def _history(options: argparse.Namespace) -> tuple[CommitsOf | VersionsOf, list[str]]:
    if options.package is None:
        if options.versions or options.pre:
            raise UsageError("--versions and --pre are of a package: name it with --package")
        if not (options.good and options.bad):
            raise UsageError("which commits? Give --good REV and --bad REV")
        repository = repository_of(options.repository)
        of = CommitsOf(repository, options.build, options.subfolder)
        return of, commits_between(repository, options.good, options.bad)
    if options.build or options.subfolder or options.repository != ".":
        raise UsageError(
            "--package searches versions, and --repository, --build and --subfolder commits: give"
            " one of the two"
        )
    if options.versions:
        versions = [each.strip() for each in options.versions.split(",") if each.strip()]
    elif options.good and options.bad:
        versions = released_versions(options.package, pre=options.pre)
    else:
        raise UsageError("which versions? Give --good and --bad, or a list as --versions")
    return VersionsOf(options.package), versions_between(versions, options.good, options.bad)


def _continued(options: argparse.Namespace, path: Path, dashes: bool) -> Search:
    of_the_command = {"state", "resume", "retry_skipped", "most_sessions", "show"}
    begin = {**vars(_parser().parse_args([])), **dict.fromkeys(of_the_command)}
    given = {**vars(options), **dict.fromkeys(of_the_command)}
    if given != begin or dashes:
        raise UsageError(
            "--resume takes all but --most-sessions, --retry-skipped and --show from the search"
            " that it continues: leave the rest out"
        )
    search = read_search(path)
    if search.ended:
        raise UsageError(f"the search of {path} is at its end: start another one")
    if options.most_sessions:
        search.most_sessions = options.most_sessions
    if options.retry_skipped:
        search.unmeasurable = {}
    return search


def _make_way(path: Path, *, restart: bool) -> None:
    """Refuses to start another search where one is not at its end, unless it is given up: then
    removes its checkouts."""
    if not path.exists():
        return
    try:
        before = read_search(path)
    except DataError:
        if restart:  # nobody can continue it
            return
        raise
    if before.ended:
        return
    if not restart:
        raise UsageError(
            f"{path} holds a search that is not at its end: {_continue(path)}, or give it up with"
            " --restart"
        )
    _sides(before, path).close()


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Lets SIGTERM end the search as Ctrl-C does, also while a checkout is built."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Holds a lock, so that two processes do not write one search."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.lock").open("ab")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another process is at work on {path}: wait for it, or give --state another file"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield


def _sides(search: Search, path: Path) -> Sides:
    if isinstance(search.history, CommitsOf):
        return Checkouts(search.history, path)
    return Environments(search.history, lambda line: say(line, sys.stderr))


def _fraction(text: str) -> float:
    """A share, as 1% or 0.01."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)(%?)", text.strip())
    value = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < value < 0.5:
        raise argparse.ArgumentTypeError(f"{text!r} is no share below 50%, as in 1%")
    return value


def _rounds(text: str) -> int:
    return _count(text, FIRST_LOOK)


def _count(text: str, least: int = 1) -> int:
    if not text.isdigit() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dnnbench bisect",
        usage="dnnbench bisect --good A --bad B [options] -- PYTEST ARGUMENTS",
        description="Find the commit, or the version of a package, that made cases slower. Each"
        " step measures two of them side by side.",
        allow_abbrev=False,
    )
    parser.add_argument("--good", default="", metavar="A", help="a commit or version before it")
    parser.add_argument("--bad", default="", metavar="B", help="a commit or version after it")
    commits = parser.add_argument_group("commits of a repository")
    commits.add_argument(
        "--repository", default=".", metavar="DIR", help="(default: that of this folder)"
    )
    commits.add_argument(
        "--build", default="", metavar="COMMAND", help="shell command that builds a checkout"
    )
    commits.add_argument(
        "--subfolder",
        default="",
        metavar="DIR",
        help="folder of a checkout that is put on sys.path, as src (default: its top)",
    )
    versions = parser.add_argument_group("versions of a package")
    versions.add_argument("--package", metavar="NAME", help="the package, as pip knows it")
    versions.add_argument(
        "--versions",
        default="",
        metavar="LIST",
        help="from good to bad, separated by commas (default: those of pip's index)",
    )
    versions.add_argument("--pre", action="store_true", help="pre-releases too")
    _add_search_options(parser)
    return parser


def _add_search_options(parser: argparse.ArgumentParser) -> None:
    search = parser.add_argument_group("the search")
    search.add_argument("--metric", default=THROUGHPUT, help="(default: %(default)s)")
    search.add_argument(
        "--error",
        type=_fraction,
        default=0.01,
        metavar="SHARE",
        help="probability that the answer may be wrong with (default: 1%%)",
    )
    search.add_argument(
        "--smallest",
        type=_fraction,
        metavar="SHARE",
        help="the change that matters, as 1%% (default: the metric's own; of throughput 3%%)",
    )
    search.add_argument(
        "--launches",
        type=_rounds,
        default=MOST_ROUNDS,
        metavar="N",
        help="the most rounds that compare good with bad (default: %(default)s)",
    )
    search.add_argument(
        "--most-sessions", type=_count, metavar="N", help="end after so many, settled or not"
    )
    search.add_argument("--show", action="store_true", help="show the output of the sessions")
    search.add_argument(
        "--state",
        default=str(STATE),
        metavar="FILE",
        help="keeps the search (default: %(default)s)",
    )
    search.add_argument("--resume", action="store_true", help="continue the search in --state")
    search.add_argument(
        "--retry-skipped", action="store_true", help="with --resume: try again what was skipped"
    )
    search.add_argument("--restart", action="store_true", help="give up the search in --state")
