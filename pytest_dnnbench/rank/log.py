"""What a rank prints: the fork server drains its pipe into a file that never grows past LIMIT.

A rank that floods its output does not fill the disk. It is slowed down to the speed at which the
server drains. No torch here.
"""

import os
from contextlib import suppress

LIMIT = 1 << 20
"""The most bytes in the file of one rank."""

TAIL = 1 << 16
"""Bytes of the end that stay when the file is cut."""

_CHUNK = 1 << 16
_LAST_CHUNKS = 64
"""Chunks that are still read from the pipe after the rank has ended: more than a pipe holds, and a
bound, since a process that the rank started may print on."""


class Log:
    """The output of one rank: the reading end of its pipe, and the file with the end of the
    output."""

    def __init__(self, path: str, pipe: int) -> None:
        self.pipe = pipe
        os.set_blocking(pipe, False)
        self._path = path
        self._file = _open(path)
        self._size = self._dropped = 0

    def take(self) -> bool:
        """Moves the waiting output to the file. Returns False once no process can write any more.
        On a full disk, output is lost and nothing else happens."""
        try:
            chunk = os.read(self.pipe, _CHUNK)
        except BlockingIOError:
            return True
        with suppress(OSError):
            if self._size + len(chunk) > LIMIT:
                self._cut()
            self._size += os.write(self._file, chunk)
        return bool(chunk)

    def close(self) -> None:
        """Takes what an ended rank has left in the pipe, then closes both."""
        for _ in range(_LAST_CHUNKS):
            if not self.take():
                break
        self.forget()

    def forget(self) -> None:
        """Closes the descriptors. The fork of another rank does this and nothing else."""
        os.close(self.pipe)
        os.close(self._file)

    def _cut(self) -> None:
        """Replaces the full file by one with its end. A reader sees either the one file or the
        other."""
        tail = os.pread(self._file, TAIL, max(0, self._size - TAIL))
        dropped = self._dropped + self._size - len(tail)
        path = f"{self._path}.cut"
        shorter = _open(path)
        try:
            size = os.write(shorter, b"[dnnbench: %d bytes of output dropped]\n" % dropped + tail)
            os.replace(path, self._path)
        except OSError:
            os.close(shorter)
            raise
        os.close(self._file)
        self._file, self._size, self._dropped = shorter, size, dropped


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
