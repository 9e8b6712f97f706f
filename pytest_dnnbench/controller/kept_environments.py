"""The environments that were made for requirements and are kept: which there are, and removing
them.

    environments/KEY/made-for.json    what it was made for; touched by each session that uses it
    environments/KEY.PID/             being made by that process, or left over from one that died

Not here: how one is made (made_environment.py).
"""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.files import cache_folder

ABOUT = "made-for.json"

_REMOVING = "removing"


class About(msgspec.Struct, frozen=True):
    """What an environment was made for: the requirements, and the environment that it lies over."""

    requirements: list[str]
    over: str


@dataclass(frozen=True, slots=True)
class KeptEnvironment:
    """One environment. `name` is that of its folder; `requirements` is empty where that is not
    known; `size_bytes` is what it takes on the disk; `used_s` is when it was made or last used, in
    seconds of the epoch; `is_whole` is false of what is being made, or was never finished."""

    folder: Path
    requirements: tuple[str, ...]
    over: str
    size_bytes: int
    used_s: float
    is_whole: bool

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.name

    @property
    def label(self) -> str:
        """What it is for, in words."""
        if not self.is_whole:
            return "(never finished)"
        return " ".join(self.requirements) or "(not known)"

    def is_meant_by(self, text: str) -> bool:
        """Whether a user's text names it: the begin of its name, or its requirements."""
        words = sorted(text.split())
        return self.name.startswith(text) or (bool(words) and words == sorted(self.requirements))


def environments_folder() -> Path:
    """Where they are kept."""
    return cache_folder("environments")


def write_about(folder: Path, requirements: Sequence[str], over: str) -> None:
    """Says in an environment what it is for."""
    (folder / ABOUT).write_bytes(msgspec.json.encode(About([*requirements], over)))


def note_use(folder: Path) -> None:
    """Notes that an environment is used now. One that cannot be written to is used all the same."""
    with suppress(OSError):
        os.utime(folder / ABOUT)


def kept_environments() -> list[KeptEnvironment]:
    """All of them, the one that was used last first."""
    folder = environments_folder()
    folders = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(map(_environment, folders), key=lambda each: -each.used_s)


def remove(environment: KeptEnvironment) -> None:
    """Removes an environment: at once for whoever looks for it, and then its files. Raises
    UsageError for one that a process uses or is making."""
    if users := users_of(environment.folder):
        processes = ", ".join(map(str, users))
        raise UsageError(
            f"{environment.name} ({environment.label}) is used by process {processes}: end that"
            " session first"
        )
    name = environment.name.removesuffix(f".{_REMOVING}")
    doomed = environment.folder.with_name(f"{name}.{_REMOVING}")
    try:
        if environment.folder != doomed:
            if doomed.exists():  # what a removal of before has left
                shutil.rmtree(doomed)
            environment.folder.rename(doomed)
        shutil.rmtree(doomed)
    except OSError as error:
        raise UsageError(f"{environment.folder} cannot be removed: {error.strerror}") from None


def users_of(folder: Path) -> list[int]:
    """The processes that run an environment's interpreter or a program of it, and the one that is
    making it."""
    users = []
    maker = folder.name.rpartition(".")[2] if "." in folder.name else ""
    for process in Path("/proc").glob("[0-9]*"):
        words: list[bytes] = []
        with suppress(OSError):  # it ended meanwhile, or is another user's
            words = (process / "cmdline").read_bytes().split(b"\0")
        runs = any(word.startswith(f"{folder}/".encode()) for word in words)
        if runs or (process.name == maker and words):
            users.append(int(process.name))
    return sorted(users)


def _environment(folder: Path) -> KeptEnvironment:
    about, used_s = About([], ""), 0.0
    with suppress(OSError):
        used_s = folder.stat().st_mtime
    # A damaged file, or an environment of an earlier version: it can be listed and removed.
    with suppress(OSError, msgspec.MsgspecError):
        used_s = (folder / ABOUT).stat().st_mtime
        about = msgspec.json.decode((folder / ABOUT).read_bytes(), type=About)
    return KeptEnvironment(
        folder=folder,
        requirements=tuple(about.requirements),
        over=about.over,
        size_bytes=sum(_sizes(folder)),
        used_s=min(used_s, time.time()),
        is_whole="." not in folder.name,
    )


def _sizes(folder: Path) -> Iterator[int]:
    """What each file takes on the disk; links to other environments' files are not followed."""
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                yield 512 * os.lstat(os.path.join(path, name)).st_blocks
