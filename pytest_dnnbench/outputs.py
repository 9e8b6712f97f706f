"""Files and folders that a command or a session is going to write: looked at before the work, whose
results would be lost otherwise. Not here: the writing (files.py).

A disk may still fill up, and a folder go away, in the meantime.
"""

import errno
import os
import tempfile
from pathlib import Path

from pytest_dnnbench.errors import UsageError

_BLOCK = bytes(4096)
"""Written on trial: a full disk takes an empty file."""


def check_file(option: str, path: Path) -> None:
    """Raises UsageError, with the option that names it, where a file could not be written."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        _try(path.parent)
    except OSError as error:
        raise UsageError(
            f"{option} {path} cannot be written ({error.strerror}): name a file in a folder that"
            " can be written to"
        ) from None


def make_folder(option: str, folder: Path) -> None:
    """Makes the folder. Raises UsageError, with the option that names it, where nothing could be
    written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _try(folder)
    except OSError as error:
        raise unwritable(option, folder, error) from None


def check_folder(option: str, folder: Path) -> None:
    """Raises UsageError where a folder could neither be made nor written to. Makes none: a session
    that saves nothing leaves none."""
    existing = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    try:
        _try(existing)
    except OSError as error:
        raise unwritable(option, folder, error) from None


def unwritable(option: str, folder: Path, error: OSError) -> UsageError:
    """That nothing can be written to a folder, and why."""
    named = f"{option} {folder}".lstrip()
    return UsageError(f"{named} cannot be written to ({error.strerror}): give another folder")


def _try(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(_BLOCK)
        file.flush()
