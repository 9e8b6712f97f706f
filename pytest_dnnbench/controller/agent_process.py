"""The process that an engine started for the agent of a node: messages to and from it, and its end.

    start ── stdin  <── frames of requests
          ── stdout ──> greeting, then frames of replies and of what comes unasked
          ── stderr ──> a file, whose end says why a process has ended

An interrupt (Ctrl-C, a test's own time-out) may come between any two instructions. A message that
it leaves half-sent is finished before the next one; where it hit the one moment in which nobody
knows how many bytes went, the process is given up (`AgentGone`), for its frames mean nothing then.

Not here: which request a message answers (agent_link.py).
"""

import os
import select
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from pytest_dnnbench.controller import agent_messages as say
from pytest_dnnbench.controller.agent_messages import GREETING, MOST_GREETING_BYTES, BadFrame
from pytest_dnnbench.controller.deadline import LOOK_S, Deadline
from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.harmless import one_line
from pytest_dnnbench.starting import started

END_S = 2.0
"""How long the engine's process may take to end after the agent's stdin was closed."""

_ENDING_S = 1.0
_READ_BYTES = 1 << 16
"""What a pipe holds: a larger buffer for every read costs memory and is never filled."""
_TAIL_BYTES = 4096
_TAIL_LINES = 5


class AgentGone(Exception):
    """The process can no longer be talked to. The text says why; empty: it has ended. Never leaves
    the controller."""


class AgentProcess:
    """One process. Raises UsageError where `command` cannot be started on the node."""

    def __init__(self, node: str, command: Sequence[str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._frames = say.Frames(say.FromAgent)
        self._before_greeting: bytearray | None = bytearray()
        self._outgoing = bytearray()
        self.arrived: deque[Any] = deque()
        """Messages that nobody has taken yet. An interrupt may leave some."""
        self._torn = False
        try:
            self._process = started(
                lambda: subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    start_new_session=True,  # Ctrl-C is the pytest process's affair alone
                )
            )
        except OSError as error:
            self._errors.close()
            raise UsageError(
                f"node {node}: {command[0]} cannot be started ({error}): change"
                " --dnn-engine-command, or --dnn-engine"
            ) from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.pid = self._process.pid
        self._sink, self._source = self._process.stdin, self._process.stdout
        os.set_blocking(self._sink.fileno(), False)

    def fileno(self) -> int:
        """What becomes readable when the agent has sent something."""
        return self._source.fileno()

    def send(self, message: say.Message, timeout_s: float, meanwhile: Callable[[], object]) -> None:
        """Sends a message, and what an interrupt has left of the one before. `meanwhile` takes in
        what the agent sends: one that waits to be read takes nothing in. Raises AgentGone."""
        self._outgoing += say.framed(message)
        deadline = Deadline(timeout_s)
        while self._outgoing:
            self._check()
            if not (left_s := deadline.left_s()):
                raise AgentGone(f"it took nothing in for {timeout_s:g} s")
            readable, writable, _ = select.select(
                [self._source], [self._sink], [], min(left_s, LOOK_S)
            )
            if readable:
                meanwhile()
            if writable:
                self._write()

    def receive(self) -> None:
        """Reads once; messages that are whole have `arrived` then. Raises AgentGone, BadFrame."""
        self._check()
        self._torn = True
        chunk = os.read(self.fileno(), _READ_BYTES)
        if chunk:
            self.arrived.extend(self._frames.take(self._greeted(chunk)))
        self._torn = False
        if not chunk:
            raise AgentGone("")

    def ended(self, described: Callable[[int], str]) -> str:
        """Why it has ended: what its status means, if it has one."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDING_S)
        status = self._process.poll()
        return "its connection closed" if status is None else described(status)

    @property
    def said(self) -> str:
        """The end of what the engine and the agent have written to stderr, in one line."""
        size = os.fstat(self._errors.fileno()).st_size
        tail = os.pread(self._errors.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        lines = [line.strip() for line in tail.decode(errors="replace").splitlines()]
        before = bytes(self._before_greeting or b"").decode(errors="replace").splitlines()
        return one_line(" / ".join([line for line in [*before, *lines] if line][-_TAIL_LINES:]))

    def close(self) -> bool:
        """Ends the agent: closes its stdin, and kills the engine's process for it if it stays.
        Returns whether it stayed: the agent may be there still, if it is stopped."""
        for stream in (self._sink, self._source):
            with suppress(OSError):
                stream.close()
        try:
            self._process.wait(END_S)
            return False
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return True
        finally:
            self._errors.close()

    def _check(self) -> None:
        if self._torn:
            raise AgentGone("an interrupt came in the middle of a message")

    def _write(self) -> None:
        self._torn = True
        try:
            del self._outgoing[: os.write(self._sink.fileno(), self._outgoing)]
        except BrokenPipeError:
            raise AgentGone("") from None
        self._torn = False

    def _greeted(self, chunk: bytes) -> bytes:
        """What follows the agent's greeting. Raises BadFrame where none comes."""
        if self._before_greeting is None:
            return chunk
        self._before_greeting += chunk
        head, greeting, rest = bytes(self._before_greeting).partition(GREETING)
        if greeting:
            self._before_greeting = None
            return rest
        if len(head) > MOST_GREETING_BYTES:
            raise BadFrame(f"{counted(len(head), 'byte')} that do not begin as an agent does")
        return b""
