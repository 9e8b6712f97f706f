"""One rank of a running launch, as the controller sees it: its process, its pipe, its files, its
status page. Not here: starting ranks (ranks.py), which of them is to blame (rank_failure.py).
"""

import os
import pickle
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_dnnbench.frames import FRAME_HEAD, RESULT, RankError
from pytest_dnnbench.proc import process_fields
from pytest_dnnbench.rank_status import RankStatus, StatusPage

_CHUNK_BYTES = 1 << 20
_TAIL_BYTES = 1 << 16


@dataclass
class RankProcess:
    """A started rank. `pipe` is the end of its pipe that is read here; `output` and `stacks` are
    the files that it prints to and that receive the stacks of its threads.

    `result` or `error` is set once it has `reported`, `exit_code` once its process has ended: an
    exit status, or minus the number of a signal.
    """

    number: int
    pid: int
    pipe: int
    output: Path
    stacks: Path
    page: StatusPage
    result: Any = None
    error: RankError | None = None
    reported: bool = False
    exit_code: int | None = None
    _received: bytearray = field(default_factory=bytearray)

    @property
    def failed(self) -> bool:
        """Whether it reported an error, or ended without a report."""
        return self.error is not None or (self.exit_code is not None and not self.reported)

    @property
    def pending(self) -> bool:
        """Whether a report may still come."""
        return not self.reported and self.exit_code is None

    @property
    def stopped(self) -> bool:
        """Whether its process is stopped by a signal."""
        with suppress(OSError):
            return process_fields(self.pid)[0] == "T"
        return False

    @property
    def status(self) -> RankStatus:
        """Where the rank is, or where it ended."""
        return self.page.look()

    def last_output(self) -> str:
        """What it printed to stdout and stderr: the end of it, 64 KiB."""
        return _tail(self.output)

    def stack_text(self) -> str:
        """The stacks of its threads, if they were written; the end of them, 64 KiB."""
        return _tail(self.stacks).strip()

    def read(self) -> bool:
        """Takes what has arrived on the pipe; False at the pipe's end."""
        chunk = os.read(self.pipe, _CHUNK_BYTES)
        self._received += chunk
        if not self.reported:
            self._decode()
        return bool(chunk)

    def ended(self, exit_code: int) -> None:
        """Notes that its process has ended, and takes what it left in the pipe."""
        os.set_blocking(self.pipe, False)
        with suppress(BlockingIOError):
            while self.read():
                pass
        self.exit_code = exit_code

    def close(self) -> None:
        """Gives up the pipe and the status page."""
        os.close(self.pipe)
        self.page.close()

    def _decode(self) -> None:
        """Sets result or error if the frame is whole."""
        if len(self._received) < FRAME_HEAD.size:
            return
        kind, size = FRAME_HEAD.unpack_from(self._received)
        if len(self._received) < FRAME_HEAD.size + size:
            return
        body = pickle.loads(self._received[FRAME_HEAD.size :])  # noqa: S301 - our own fork, over an inherited pipe
        self.reported = True
        if kind == RESULT:
            self.result = body
        else:
            self.error = RankError(**body)


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
