"""Files that are never half-written, and the user's cache folder. A leaf: imports nothing of
ours."""

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, content: str | bytes) -> None:
    """Replaces the file's content at once: killed at any moment, it is whole, either the old or
    the new one, and on the disk when this returns. An existing file keeps its permission bits."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".new")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), _mode(path))
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise
    # The new name is an entry of the directory, which has to reach the disk too.
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def cache_folder(name: str) -> Path:
    """`$XDG_CACHE_HOME/pytest-dnnbench/NAME`, or the same under `~/.cache`. Not made here."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pytest-dnnbench" / name


def _mode(path: Path) -> int:
    """The permission bits of an existing file, else those that the umask gives a new one."""
    with suppress(OSError):
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
