"""The controller's handle on the fork server (rank/server.py): starts it, asks it to fork ranks,
signals them, and receives their exit codes. Not here: its environment (server_environment.py)."""

import glob
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Self

from pytest_dnnbench.controller.deadline import LOOK_S, Deadline
from pytest_dnnbench.controller.server_environment import (
    read_when_loaded,
    server_environment,
)
from pytest_dnnbench.controller.side import Side
from pytest_dnnbench.errors import LaunchError
from pytest_dnnbench.frames import SpawnMessage
from pytest_dnnbench.proc import descendants_of, is_stopped
from pytest_dnnbench.starting import started

START_TIMEOUT_S = 300.0
"""How long the server may take to import everything: torch from a cold network disk can take
minutes."""

PRELOAD = (
    "torch",
    "torch.distributed",
    "torch.nn.parallel",
    "torch._dynamo",
    "torch.profiler._cupti_monitor",
    "torch.utils.data.distributed",
    "pytest_dnnbench.rank.entry",
    "pytest_dnnbench.rank.timed_run",
    "pytest_dnnbench.rank.workloads.image_models",
    "pytest_dnnbench.rank.frameworks.single",
    "pytest_dnnbench.rank.frameworks.ddp",
    "pytest_dnnbench.rank.yardstick",
    "pytest_dnnbench.rank.gpu_yardstick",
    "torchvision.datasets",
)
"""What every rank needs, and what torch otherwise imports late: building a DistributedDataParallel
loads torch._dynamo, and the first step of an optimiser torch.profiler._cupti_monitor, where torch
has it."""

STOPPED_S = 60.0
"""How long the server may be stopped by a signal while it imports; a launch allows its time-out."""

_MESSAGE_BYTES = 1 << 17

# The path comes first: it decides which interpreter's and which checkout's modules are imported.
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    " from pytest_dnnbench.rank.server import main; main(int(sys.argv[2]))"
)


@dataclass(frozen=True, slots=True)
class Exited:
    """A rank's process has ended. `code` is an exit status, or minus the number of the signal that
    killed it."""

    pid: int
    code: int


_NOT_RUNNING = (
    "the fork server is not running: it has ended with its session, so start ranks within a test"
)


class ForkServer:
    """Started at first use, once for a session, and again if it dies or if a variable has changed
    that libraries read only when they are loaded. Close it, or use it in a `with`.

    `preload` are the modules that the server imports. `preload_errors` holds the error of each that
    could not be imported; only torch's prevents a launch. `side` says in which environment it runs:
    by default in that of this process.
    """

    def __init__(self, preload: Sequence[str] = PRELOAD, side: Side | None = None) -> None:
        self.preload = tuple(preload)
        self.side = side or Side()
        self.preload_errors: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._ready = False
        self._exits: list[Exited] = []
        self._tokens = 0
        self.scratch_prefix = ""
        """How the path of every folder of a launch begins. When the server ends it removes what is
        left of them, for the pytest process may have been killed."""
        self.environment: dict[str, str] = {}
        """The pytest process's environment when the server was started."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Starts the server and returns before its imports are done: they go on while pytest
        collects. Raises LaunchError if it cannot be started."""
        environment = dict(os.environ)
        running = self._process is not None and self._process.poll() is None
        if running and read_when_loaded(environment) == read_when_loaded(self.environment):
            return
        self.close()
        self.environment = environment
        name = f"dnnbench-{os.getpid()}-{secrets.token_hex(4)}-"
        self.scratch_prefix = os.path.join(tempfile.gettempdir(), name)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._process = started(
                    lambda: subprocess.Popen(
                        self._command(theirs.fileno()),
                        pass_fds=[theirs.fileno()],
                        stdin=subprocess.DEVNULL,
                        start_new_session=True,
                        env=server_environment({**environment, **self.side.variables}),
                    )
                )
        except OSError as error:
            self.close()
            raise LaunchError(f"the fork server cannot be started: {error}") from None
        self._send(
            {
                "preload": self.preload,
                "sys_path": self.side.sys_path,
                "scratch": self.scratch_prefix,
            }
        )

    def _command(self, control: int) -> list[str]:
        """Starts the server, which talks to us over this descriptor."""
        if self.side == Side():
            return [self.side.python, "-m", "pytest_dnnbench.rank.server", str(control)]
        return [self.side.python, "-c", _START, json.dumps(self.side.sys_path), str(control)]

    def wait_ready(self, stopped_s: float = STOPPED_S) -> None:
        """Returns when the server is ready to fork. Raises LaunchError if it cannot import torch,
        if an import has started threads or opened a GPU, or if the server is stopped by a signal
        for `stopped_s`."""
        self.start()
        if self._ready:
            return
        message = self._receive(START_TIMEOUT_S, stopped_s)
        self.preload_errors = message["errors"]
        if "torch" in self.preload_errors:
            self.close()
            raise LaunchError(
                f"ranks cannot be started: torch does not import: {self.preload_errors['torch']}"
            )
        if message["threads"] != 1:
            self.close()
            raise LaunchError(
                f"the fork server has {message['threads']} threads after its imports, so forked"
                f" ranks could deadlock: one of {', '.join(self.preload)} starts threads when"
                " imported"
            )
        if message["gpus"]:
            self.close()
            raise LaunchError(
                f"an import of the fork server has opened {', '.join(message['gpus'])}, and CUDA"
                " does not work in processes forked after that: one of"
                f" {', '.join(self.preload)} uses a GPU when imported"
            )
        self._ready = True

    def spawn(
        self,
        message: SpawnMessage,
        descriptors: Sequence[int],
        timeout_s: float = START_TIMEOUT_S,
    ) -> int:
        """Forks a rank, hands it the descriptors (request, result, page and, for the rank that
        keeps the launch's store, a listening socket), and returns its process id. Raises
        LaunchError if the server does not answer in time."""
        self.wait_ready(timeout_s)
        self._tokens += 1
        spawn = {"op": "spawn", "token": self._tokens, **asdict(message)}
        self._send(spawn, descriptors)
        while True:
            answer = self._receive(timeout_s)
            if answer["op"] == "spawned" and answer["token"] == self._tokens:
                return int(answer["pid"])
            self._note(answer)

    def signal(self, pid: int, number: int, *, group: bool = False) -> None:
        """Signals a rank, or with `group` also the processes that it started. Does nothing if the
        rank has ended."""
        with suppress(LaunchError):
            self._send({"op": "signal", "pid": pid, "signal": int(number), "group": group})

    def exits(self, timeout_s: float) -> list[Exited]:
        """The ranks that have ended since the last call; waits up to `timeout_s` for the first."""
        while not self._exits or self._readable(0.0):
            if not self._readable(0.0 if self._exits else timeout_s):
                break
            self._note(self._receive(0.0))
        ended, self._exits = self._exits, []
        return ended

    @property
    def pid(self) -> int | None:
        """The process id of the server; None while it is not running."""
        return self._process.pid if self._process else None

    @property
    def stopped(self) -> bool:
        """Whether the server is stopped by a signal."""
        return self.pid is not None and is_stopped(self.pid)

    def fileno(self) -> int:
        """The descriptor that becomes readable when a rank has ended; what `select` asks for."""
        if self._control is None:
            raise LaunchError(_NOT_RUNNING)
        return self._control.fileno()

    def close(self) -> None:
        """Ends the server and every rank that is still running."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            try:
                self._process.wait(0 if self.stopped else 5)
            except subprocess.TimeoutExpired:
                self._kill(self._process)
        self._process = self._control = None
        self._ready = False
        self._exits = []

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kills the server, with all that descends from it, and clears up in its place."""
        # A descriptor of a process stays with it: its number may be given to another meanwhile.
        descriptors = []
        for pid in descendants_of(process.pid):
            with suppress(ProcessLookupError):
                descriptors.append(os.pidfd_open(pid))
        process.kill()
        process.wait()
        for descriptor in descriptors:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            os.close(descriptor)
        for folder in glob.glob(f"{glob.escape(self.scratch_prefix)}*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _note(self, answer: dict[str, Any]) -> None:
        if answer["op"] == "exited":
            self._exits.append(Exited(answer["pid"], answer["code"]))

    def _send(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        if self._control is None:
            raise LaunchError(_NOT_RUNNING)
        packed = json.dumps(message).encode()
        if len(packed) > _MESSAGE_BYTES:
            raise LaunchError(
                f"sys.path and the environment variables that have changed since the fork server"
                f" started take {len(packed):,} bytes; at most {_MESSAGE_BYTES:,} can be sent to a"
                " rank: set fewer or shorter ones"
            )
        try:
            socket.send_fds(self._control, [packed], list(descriptors))
        except OSError as error:
            raise self._lost() from error

    def _readable(self, timeout_s: float) -> bool:
        return bool(select.select([self.fileno()], [], [], timeout_s)[0])

    def _receive(self, timeout_s: float, stopped_s: float = STOPPED_S) -> dict[str, Any]:
        """The next message. Raises LaunchError, and ends the server, when none comes within
        `timeout_s`, of which it may be stopped by a signal for `stopped_s`."""
        if self._control is None:
            raise LaunchError(_NOT_RUNNING)
        deadline, may_be_stopped = Deadline(timeout_s), Deadline(stopped_s)
        while not self._readable(min(LOOK_S, deadline.left_s(), may_be_stopped.left_s())):
            if not self.stopped:
                may_be_stopped = Deadline(stopped_s)
            if not (deadline.left_s() and may_be_stopped.left_s()):
                raise self.silent(min(timeout_s, stopped_s) if self.stopped else timeout_s)
        try:
            packed = self._control.recv(_MESSAGE_BYTES)
        except ConnectionError:
            packed = b""
        if not packed:
            raise self._lost()
        return dict(json.loads(packed))

    def silent(self, timeout_s: float) -> LaunchError:
        """Ends a server that does not answer, and with it every rank; returns the error."""
        pid, stopped = self.pid, self.stopped
        self.close()
        why = ", for it is stopped by a signal" if stopped else ""
        return LaunchError(
            f"the fork server (process {pid}) did not answer within {timeout_s:g} s{why};"
            " the next launch starts a new one"
        )

    def _lost(self) -> LaunchError:
        code = None
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(5) if self._process else None
        self.close()
        return LaunchError(
            f"the fork server has died (status {code}); the next launch starts a new one"
        )
