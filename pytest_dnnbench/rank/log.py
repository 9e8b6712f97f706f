"""What a rank prints, kept within bounds: the fork server drains its pipe into a file that never
grows past LIMIT.

A rank that floods its output fills no disk; it is slowed down to what the server drains. No torch
here.
"""

import os
from contextlib import suppress

LIMIT = 1 << 20
"""Bytes that the file of one rank may hold."""

TAIL = 1 << 16
"""Bytes of the end that stay when the file is cut."""

_CHUNK = 1 << 16
_LAST_CHUNKS = 64
"""After a rank's end, how much of its pipe is still read: more than a pipe holds, and not for ever,
should something that it has started print on."""


class Log:
    """The output of one rank: the reading end of its pipe and the file that keeps the last of
    it."""

    def __init__(self, path: str, pipe: int) -> None:
        self.pipe = pipe
        os.set_blocking(pipe, False)
        self._path = path
        self._file = _open(path)
        self._size = self._dropped = 0

    def take(self) -> bool:
        """Moves what is there; False once nobody can write any more. A full disk loses output and
        nothing else."""
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
        """The rank has ended: takes what it left in the pipe."""
        for _ in range(_LAST_CHUNKS):
            if not self.take():
                break
        self.forget()

    def forget(self) -> None:
        """Closes what is open here; all that another rank's fork does with it."""
        os.close(self.pipe)
        os.close(self._file)

    def _cut(self) -> None:
        """Puts a file with the end in the place of the full one, so that a reader sees one or the
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
