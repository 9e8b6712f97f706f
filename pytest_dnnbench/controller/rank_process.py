"""One rank of a running launch, as the controller sees it: `Rank` wherever it runs, `RankProcess`
on this machine, with its process, its pipe, its files, its status page. Not here: starting ranks
(launch_part.py), ranks of other nodes (remote_node.py), which of them is to blame
(rank_failure.py).
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pytest_dnnbench.controller.rank_answer import FrameReader, Unreadable, error_of
from pytest_dnnbench.frames import ERROR, RankError
from pytest_dnnbench.proc import has_ended, is_stopped
from pytest_dnnbench.rank_status import RankStatus, StatusPage

CHUNK_BYTES = 1 << 20
"""Most bytes of an answer that are read at once."""

_TAIL_BYTES = 1 << 16


@dataclass
class Rank:
    """A started rank. `node` is the name of the node that it runs on; empty where the launch is on
    one machine, whose name says nothing.

    Once it has `reported`, `frame` holds its answer; for a failure `error` is set, or `unreadable`,
    which says why the answer cannot be read. `exit_code` is set once its process has ended: an exit
    status, or minus the number of a signal; `lost` says why its node no longer answers. Its clock
    reads `clock_offset_s` more than ours.
    """

    number: int
    pid: int
    node: str = field(default="", kw_only=True)
    frame: FrameReader = field(default_factory=FrameReader, kw_only=True)
    error: RankError | None = field(default=None, kw_only=True)
    unreadable: str = field(default="", kw_only=True)
    reported: bool = field(default=False, kw_only=True)
    exit_code: int | None = field(default=None, kw_only=True)
    lost: str = field(default="", kw_only=True)
    clock_offset_s: float = field(default=0.0, kw_only=True)

    @property
    def failed(self) -> bool:
        """Whether it reported an error, or what nobody can read, or ended without a report."""
        ended_early = self.exit_code is not None or bool(self.lost)
        return (
            self.error is not None or bool(self.unreadable) or (ended_early and not self.reported)
        )

    @property
    def pending(self) -> bool:
        """Whether a report may still come."""
        return not self.reported and self.exit_code is None and not self.lost

    @property
    def on_node(self) -> str:
        """The words that name its node in a message; empty on one machine."""
        return f" on node {self.node}" if self.node else ""

    @property
    def stopped(self) -> bool:
        """Whether its process is stopped by a signal."""
        raise NotImplementedError

    @property
    def ends_unconfirmed(self) -> bool:
        """Whether its process has ended without a report, and nobody has said how. Not known of
        another node's."""
        return False

    @property
    def status(self) -> RankStatus:
        """Where the rank is, or where it ended."""
        raise NotImplementedError

    @property
    def timing_s(self) -> float:
        """How long it timed by the kernel's clock (rank_status.py)."""
        raise NotImplementedError

    @property
    def oom_killed(self) -> bool | None:
        """Whether the kernel killed processes on its node for lack of memory; None: look here."""
        return None

    def last_output(self) -> str:
        """What it printed to stdout and stderr: the end of it, 64 KiB."""
        raise NotImplementedError

    def stack_text(self) -> str:
        """The stacks of its threads, if they were written; the end of them, 64 KiB."""
        raise NotImplementedError

    def take(self, chunk: bytes) -> None:
        """Adds what has arrived of its answer."""
        if self.reported:
            return
        try:
            self.reported = self.frame.take(chunk)
            if self.frame.kind == ERROR:
                self.error = error_of(self.frame.body)
        except Unreadable as error:
            self.reported, self.unreadable = True, str(error)


@dataclass
class RankProcess(Rank):
    """A rank on this machine. `pipe` is the end of its pipe that is read here; `output` and
    `stacks` are the files that it prints to and that receive the stacks of its threads.

    With `forward`, what arrives goes there and is not read here: an agent's rank answers the
    controller.
    """

    pipe: int
    output: Path
    stacks: Path
    page: StatusPage
    forward: Callable[[bytes], None] | None = field(default=None, kw_only=True)

    @property
    def stopped(self) -> bool:
        """As Rank.stopped."""
        return is_stopped(self.pid)

    @property
    def ends_unconfirmed(self) -> bool:
        """As Rank.ends_unconfirmed."""
        return self.pending and has_ended(self.pid)

    @property
    def status(self) -> RankStatus:
        """As Rank.status."""
        return self.page.look()

    @property
    def timing_s(self) -> float:
        """As Rank.timing_s."""
        return self.page.timing_s()

    def last_output(self) -> str:
        """As Rank.last_output."""
        return _tail(self.output)

    def stack_text(self) -> str:
        """As Rank.stack_text."""
        return _tail(self.stacks).strip()

    def read(self) -> bool:
        """Takes what has arrived on the pipe; False at the pipe's end."""
        chunk = os.read(self.pipe, CHUNK_BYTES)
        if self.forward is None:
            self.take(chunk)
        elif chunk:
            self.forward(chunk)
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


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
