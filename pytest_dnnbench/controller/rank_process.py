"""One rank of a running launch, as the controller sees it: its process, its pipe, its files, its
status page. Not here: starting ranks (ranks.py), which of them is to blame (rank_failure.py).
"""

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pytest_dnnbench.controller.rank_answer import FrameReader, Unreadable, error_of
from pytest_dnnbench.frames import ERROR, RankError
from pytest_dnnbench.proc import is_stopped
from pytest_dnnbench.rank_status import RankStatus, StatusPage

_CHUNK_BYTES = 1 << 20
_TAIL_BYTES = 1 << 16


@dataclass
class RankProcess:
    """A started rank. `pipe` is the end of its pipe that is read here; `output` and `stacks` are
    the files that it prints to and that receive the stacks of its threads.

    Once it has `reported`, `frame` holds its answer; for a failure `error` is set, or `unreadable`,
    which says why the answer cannot be read. `exit_code` is set once its process has ended: an exit
    status, or minus the number of a signal.
    """

    number: int
    pid: int
    pipe: int
    output: Path
    stacks: Path
    page: StatusPage
    frame: FrameReader = field(default_factory=FrameReader)
    error: RankError | None = None
    unreadable: str = ""
    reported: bool = False
    exit_code: int | None = None

    @property
    def failed(self) -> bool:
        """Whether it reported an error, or what nobody can read, or ended without a report."""
        ended_early = self.exit_code is not None and not self.reported
        return self.error is not None or bool(self.unreadable) or ended_early

    @property
    def pending(self) -> bool:
        """Whether a report may still come."""
        return not self.reported and self.exit_code is None

    @property
    def stopped(self) -> bool:
        """Whether its process is stopped by a signal."""
        return is_stopped(self.pid)

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
        if not self.reported:
            self._decode(chunk)
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

    def _decode(self, chunk: bytes) -> None:
        try:
            self.reported = self.frame.take(chunk)
            if self.frame.kind == ERROR:
                self.error = error_of(self.frame.body)
        except Unreadable as error:
            self.reported, self.unreadable = True, str(error)


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
