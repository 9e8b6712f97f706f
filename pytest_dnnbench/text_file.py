"""A file whose bytes are the tokens of a session. No torch here.

Not here: the batches that are cut from it (rank/workloads/token_workload.py).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pytest_dnnbench.errors import DataError

HELD_OUT_PARTS = 10
"""The last of so many equal parts of a text is for validation."""


@dataclass(frozen=True, slots=True)
class TextFile:
    """A readable file: where it is, its bytes, and their SHA-256."""

    path: str
    size: int
    sha256: str

    def part(self, phase: str) -> range:
        """The bytes of a phase: the first nine tenths train, the last tenth validates."""
        cut = self.size - self.size // HELD_OUT_PARTS
        return range(cut) if phase == "train" else range(cut, self.size)


def find_text(path: str) -> TextFile:
    """The text of a path. Raises DataError for one that cannot be read or is empty."""
    file = Path(path).expanduser()
    try:
        with open(file, "rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
            size = content.tell()
    except OSError as error:
        raise DataError(
            f"--dnn-text {path!r} cannot be read ({error.strerror}): give a file whose bytes are to"
            " be the tokens"
        ) from error
    if not size:
        raise DataError(f"--dnn-text {path!r} is empty: give a file with text in it")
    return TextFile(str(file.resolve()), size, digest)
