"""Which saved files the paths of a command name: files themselves, and folders of
pytest-benchmark's storage, which has a folder per machine. Not here: what the files hold
(results/records/saved.py)."""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.results.baselines.stored_sessions import STORED

_PATHS = (
    "a file that --benchmark-json or --benchmark-save wrote, or the folder of --benchmark-storage"
)


def session_files(paths: Iterable[Path], latest: int | None = None) -> list[Path]:
    """The files, each once: those named and those stored in named folders, a folder's in the order
    of their numbers. With `latest`, of each folder's stored sessions so many; files that the
    storage has not numbered all count. Raises UsageError for a path that does not exist and for a
    folder without a stored session."""
    files = dict.fromkeys(file for path in paths for file in _files(path))
    if latest is None:
        return [*files]
    machines: dict[Path, list[Path]] = defaultdict(list)
    for file in files:
        if STORED.fullmatch(file.name):
            machines[file.parent].append(file)
    late = {file for stored in machines.values() for file in sorted(stored, key=_number)[-latest:]}
    return [file for file in files if file in late or not STORED.fullmatch(file.name)]


def add_paths(parser: argparse.ArgumentParser, nargs: str = "+", about: str = _PATHS) -> None:
    """The argument PATH ... of a command, as `options.paths`."""
    parser.add_argument("paths", nargs=nargs, type=Path, metavar="PATH", help=about)


def add_last(parser: argparse.ArgumentParser, usual: str = "all") -> None:
    """The option --last N of a command, which is None where it is not given."""
    parser.add_argument(
        "--last",
        type=_count,
        metavar="N",
        help=f"read the latest N stored sessions of each machine (default: {usual})",
    )


def left_out(paths: Sequence[Path], files: Sequence[Path]) -> str:
    """How many of the sessions that the paths name are not among these files; empty for none."""
    count = len(session_files(paths)) - len(files)
    return f"{counted(count, 'earlier session')} left out: --last N reads more" if count else ""


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        stored = [file for file in path.rglob("*.json") if STORED.fullmatch(file.name)]
        if not stored:
            raise UsageError(
                f"{path} holds no stored session: save some with --benchmark-autosave, or name"
                " another folder"
            )
        return sorted(stored, key=lambda file: (file.parent, _number(file), file.name))
    if not path.exists():
        raise UsageError(
            f"{path} does not exist: name the folder of --benchmark-storage, or saved files"
        )
    return [path]


def _number(path: Path) -> int:
    return int(path.name.partition("_")[0])


def _count(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)
