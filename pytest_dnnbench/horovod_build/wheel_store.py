"""Where built wheels are kept, one folder per recipe: complete or absent, and safe for several
builders at once.

    STORE/KEY/horovod-....whl, recipe.json, build.log      a finished build, moved here in one step
    STORE/KEY.lock                                         held by the process that builds
    STORE/KEY.failed.log                                   the log of the last failed build
"""

import fcntl
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pytest_dnnbench.files import cache_folder


def default_store() -> "WheelStore":
    """The store in the user's cache folder ($XDG_CACHE_HOME, or ~/.cache)."""
    return WheelStore(cache_folder("horovod"))


class WheelStore:
    """Wheels by key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, key: str) -> Path | None:
        """The wheel of a recipe; None if it is not kept."""
        return next(iter(sorted((self.folder / key).glob("*.whl"))), None)

    @contextmanager
    def turn(self, key: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Held by one builder of a key at a time. The others call `waiting` once and wait until it
        has ended or died."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{key}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(lock, fcntl.LOCK_EX)
            # What a killed builder has left: the folders of `scratch` and `keep`.
            for leftover in self.folder.glob(f"{key}.*ing-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            yield

    @contextmanager
    def scratch(self, key: str) -> Iterator[Path]:
        """A folder to build in, on the store's own disk, removed afterwards. After a failure its
        build.log is kept."""
        folder = Path(tempfile.mkdtemp(prefix=f"{key}.building-", dir=self.folder))
        try:
            yield folder
        except BaseException:
            if (folder / "build.log").exists():
                (folder / "build.log").replace(self.failure_log(key))
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, key: str, wheel: Path, log: Path, facts: Mapping[str, object]) -> Path:
        """Moves a built wheel into the store, replacing an older one of the same key; returns its
        new path."""
        staged = Path(tempfile.mkdtemp(prefix=f"{key}.keeping-", dir=self.folder))
        try:
            shutil.move(wheel, staged / wheel.name)
            shutil.copyfile(log, staged / "build.log")
            (staged / "recipe.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")
            shutil.rmtree(self.folder / key, ignore_errors=True)
            staged.rename(self.folder / key)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return self.folder / key / wheel.name

    def failure_log(self, key: str) -> Path:
        """Where the log of a failed build is left."""
        return self.folder / f"{key}.failed.log"
