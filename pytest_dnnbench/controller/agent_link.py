"""The link to the agent of a node: requests and their replies, by token, over the engine's process
(agent_process.py). An agent that ends, sends what is no message, or does not answer in time is
lost: its process is ended, and the next request needs a new one (`start`).

Not here: what is asked (remote_node.py, remote_part.py).
"""

import importlib.metadata
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from pytest_dnnbench import errors
from pytest_dnnbench.controller import agent_messages as say
from pytest_dnnbench.controller.agent_messages import BadFrame
from pytest_dnnbench.controller.agent_process import END_S, AgentGone, AgentProcess
from pytest_dnnbench.controller.deadline import LOOK_S, Deadline
from pytest_dnnbench.controller.engines import Engine
from pytest_dnnbench.errors import DnnbenchError, LaunchError, UsageError
from pytest_dnnbench.starting import started

AGENT = "pytest_dnnbench.controller.agent"

ANSWER_S = 20.0
"""How long an agent may take for what needs no waiting on its side."""

CLOSE_S = END_S + ANSWER_S + 3.0
"""How long the end of an agent may take, with the end of a command that has not reached it."""

Answer = TypeVar("Answer", bound=say.Reply)


class AgentLink:
    """The link to one node. `unasked` takes what is no reply; `lost` hears why the agent was
    lost."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        *,
        unasked: Callable[[say.Message], None],
        lost: Callable[[str], None],
    ) -> None:
        self.name = name
        self.environment: dict[str, str] = {}
        """The pytest process's environment when the agent was started."""
        self.starts = 0
        """How many agents have been started."""
        self.agent_pid: int | None = None
        """The process of the agent on its node, once it has said so."""
        self._engine = engine
        self._unasked = unasked
        self._lost = lost
        self._process: AgentProcess | None = None
        self._closing: threading.Thread | None = None
        self._replies: dict[int, say.Reply] = {}
        self._unanswered: dict[int, float] = {}
        self._tokens = 0

    @property
    def pid(self) -> int | None:
        """The engine's process for this node; None while there is none."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Starts the agent, unless it runs, and returns before it answers. Raises UsageError."""
        if self._process is not None:
            return
        self.await_close()
        self._replies, self._unanswered, self.agent_pid = {}, {}, None
        self.environment = dict(os.environ)
        # Its version comes before any message: those of another version may be other ones.
        program = [sys.executable, "-m", AGENT, importlib.metadata.version("pytest-dnnbench")]
        self._process = AgentProcess(self.name, self._engine.command(self.name, program))
        self.starts += 1

    def call(self, request: say.Request, kind: type[Answer], timeout_s: float) -> Answer:
        """Sends a request and waits for its reply. Raises LaunchError where the node is lost, and
        what the agent refuses with."""
        token = self.ask(request, timeout_s)
        return self.answer(token, kind, timeout_s)

    def ask(self, request: say.Request, timeout_s: float = ANSWER_S) -> int:
        """Sends a request; returns its token, for `answer`. Raises LaunchError."""
        self._tokens += 1
        message = msgspec.structs.replace(request, token=self._tokens)
        try:
            self._connected.send(message, timeout_s, self.receive)
        except AgentGone as gone:
            raise self.lose(str(gone)) from None
        return message.token

    def tell(self, request: say.Request) -> None:
        """Sends a request whose reply says nothing."""
        self._unanswered[self.ask(request)] = time.monotonic()

    def forget(self, token: int) -> None:
        """Nobody will ask for the reply to this request."""
        if self._replies.pop(token, None) is None:
            self._unanswered[token] = time.monotonic()

    @property
    def silent_s(self) -> float:
        """How long the agent has not answered what it was told."""
        return time.monotonic() - min(self._unanswered.values()) if self._unanswered else 0.0

    def answer(self, token: int, kind: type[Answer], timeout_s: float) -> Answer:
        """The reply to a request. Raises as `call`."""
        deadline = Deadline(timeout_s)
        while True:
            self._deliver()
            if token in self._replies:
                break
            if not (left_s := deadline.left_s()):
                raise self.lose(f"it did not answer within {timeout_s:g} s")
            if select.select([self.fileno()], [], [], min(left_s, LOOK_S))[0]:
                self.receive()
        reply = self._replies.pop(token)
        if isinstance(reply, say.Refused):
            raise self._refusal(reply)
        if not isinstance(reply, kind):
            raise self.lose(f"it answered with a {type(reply).__name__}, not a {kind.__name__}")
        return reply

    def fileno(self) -> int:
        """What becomes readable when the agent has sent something. Raises LaunchError without
        one."""
        return self._connected.fileno()

    def receive(self) -> None:
        """Takes what has arrived. Raises LaunchError where the node is lost by it."""
        try:
            self._connected.receive()
        except AgentGone as gone:
            raise self.lose(str(gone)) from None
        except BadFrame as error:
            raise self.lose(f"it sent {error}") from None
        self._deliver()

    def receive_waiting(self) -> None:
        """Takes what has arrived so far, without waiting. Raises as `receive`."""
        while self._process is not None and select.select([self.fileno()], [], [], 0)[0]:
            self.receive()

    def lose(self, why: str) -> LaunchError:
        """Begins to end an agent that no longer answers; returns the error. Without a reason `why`,
        its process has ended, and its status says why."""
        process, last_words = self._process, ""
        if process is not None:
            why = why or process.ended(self._engine.ended)
            last_words = f"; it said: {process.said}" if process.said else ""
        self._lost(f"{why}{last_words}")
        self.begin_close()
        return LaunchError(f"node {self.name} was lost: {why}{last_words}")

    def close(self) -> None:
        """Ends the agent, and with it its ranks: one that is stopped by a command of its own."""
        self.begin_close()
        self.await_close()

    def begin_close(self) -> None:
        """Begins to end the agent, beside those of other nodes: what nobody can reach any more is
        waited for only once."""
        process, self._process = self._process, None
        if process is not None:
            # A daemon: an interpreter that ends waits no longer than `await_close` has.
            self._closing = threading.Thread(
                target=self._end,
                args=(process, self.agent_pid),
                name=f"dnnbench-end-{self.name}",
                daemon=True,
            )
            self._closing.start()

    def await_close(self) -> None:
        """Returns when the agent that `begin_close` began to end has ended, or is out of reach."""
        closing, self._closing = self._closing, None
        if closing is not None:
            closing.join(CLOSE_S)

    def _end(self, process: AgentProcess, pid: int | None) -> None:
        if process.close() and pid is not None:
            self._end_there(pid)

    def _end_there(self, pid: int) -> None:
        # A stopped agent reads no end of its stdin. Where it is our child the kill was enough; ssh,
        # srun and the like were killed, and it holds its node's devices.
        program = [sys.executable, "-m", AGENT, say.END, str(pid)]
        with suppress(OSError, subprocess.SubprocessError):  # the node may be out of reach
            started(
                lambda: subprocess.run(
                    self._engine.command(self.name, program),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    timeout=ANSWER_S,
                    start_new_session=True,
                )
            )

    @property
    def _connected(self) -> AgentProcess:
        if self._process is None:
            raise LaunchError(f"node {self.name} is not connected")
        return self._process

    def _deliver(self) -> None:
        while self._process is not None and self._process.arrived:
            self._take(self._process.arrived.popleft())

    def _take(self, message: Any) -> None:
        if not isinstance(message, say.Reply):
            self._unasked(message)
        elif self._unanswered.pop(message.token, None) is None:
            self._replies[message.token] = message

    def _refusal(self, reply: say.Refused) -> DnnbenchError:
        kind = getattr(errors, reply.error, LaunchError)
        usable = isinstance(kind, type) and issubclass(kind, (UsageError, LaunchError))
        chosen: type[DnnbenchError] = kind if usable else LaunchError
        return chosen(f"node {self.name}: {reply.message}")
