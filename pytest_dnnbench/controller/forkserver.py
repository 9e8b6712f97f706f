"""The controller's handle on the fork server (rank/server.py): starts it, asks it to fork ranks,
signals them, and receives their exit codes."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Self

from pytest_dnnbench.errors import LaunchError
from pytest_dnnbench.frames import SpawnMessage

START_TIMEOUT_S = 300.0
"""How long the server may take to import everything: torch from a cold network disk can take
minutes."""

PRELOAD = (
    "torch",
    "torch.distributed",
    "torch.nn.parallel",
    "torch._dynamo",
    "torch.utils.data.distributed",
    "pytest_dnnbench.rank.entry",
    "pytest_dnnbench.rank.timed_run",
    "pytest_dnnbench.rank.models",
    "pytest_dnnbench.rank.frameworks.single",
    "pytest_dnnbench.rank.frameworks.ddp",
    "pytest_dnnbench.rank.yardstick",
    "torchvision.datasets",
)
"""What every rank needs, and what torch otherwise imports late: building a DistributedDataParallel
loads torch._dynamo."""

HEAP = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_MMAP_MAX_": "0",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""Makes the C library keep freed memory. By default it returns large pieces to the kernel or keeps
them, depending on what was freed before: a training step then takes 3 page faults in one launch and
11,000 in the next, a tenth of its time. It also asks for huge pages, which the kernel gives 2 MiB
at a time: 1,800 page faults to the end of resnet18's first step instead of 37,000. Variables that
the user has set are kept."""

_MESSAGE_BYTES = 1 << 17


@dataclass(frozen=True, slots=True)
class Exited:
    """A rank's process has ended. `code` is an exit status, or minus the number of the signal that
    killed it."""

    pid: int
    code: int


class ForkServer:
    """Started at first use, once for a session, and again if it dies. Close it, or use it in a
    `with`.

    `preload` are the modules that the server imports. `preload_errors` holds the error of each that
    could not be imported; only torch's prevents a launch.
    """

    def __init__(self, preload: Sequence[str] = PRELOAD) -> None:
        self.preload = tuple(preload)
        self.preload_errors: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._ready = False
        self._exits: list[Exited] = []
        self._tokens = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Starts the server and returns before its imports are done: they go on while pytest
        collects."""
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pytest_dnnbench.rank.server", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=_server_environment(),
            )
        self._control = ours
        self._send({"preload": self.preload, "sys_path": sys.path})

    def wait_ready(self) -> None:
        """Returns when the server is ready to fork. Raises LaunchError if it cannot import torch,
        or if an import has started threads."""
        self.start()
        if self._ready:
            return
        message = self._receive(START_TIMEOUT_S)
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
        self._ready = True

    def spawn(self, message: SpawnMessage, request: int, result: int, page: int) -> int:
        """Forks a rank, hands it the three descriptors, and returns its process id."""
        self.wait_ready()
        self._tokens += 1
        spawn = {"op": "spawn", "token": self._tokens, **asdict(message)}
        self._send(spawn, [request, result, page])
        while True:
            answer = self._receive(START_TIMEOUT_S)
            if answer["op"] == "spawned" and answer["token"] == self._tokens:
                return int(answer["pid"])
            self._note(answer)

    def signal(self, pid: int, number: int, *, group: bool = False) -> None:
        """Signals a rank, or with `group` also the processes that it started. Does nothing if the
        rank has ended."""
        with suppress(LaunchError):
            self._send({"op": "signal", "pid": pid, "signal": int(number), "group": group})

    def exits(self, timeout_s: float = 0.0) -> list[Exited]:
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

    def fileno(self) -> int:
        """The descriptor that becomes readable when a rank has ended; what `select` asks for."""
        if self._control is None:
            raise LaunchError("the fork server is not running")
        return self._control.fileno()

    def close(self) -> None:
        """Ends the server and every rank that is still running."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._process = self._control = None
        self._ready = False
        self._exits = []

    def _note(self, answer: dict[str, Any]) -> None:
        if answer["op"] == "exited":
            self._exits.append(Exited(answer["pid"], answer["code"]))

    def _send(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        if self._control is None:
            raise LaunchError("the fork server is not running")
        try:
            socket.send_fds(self._control, [json.dumps(message).encode()], list(descriptors))
        except OSError as error:
            raise self._lost() from error

    def _readable(self, timeout_s: float) -> bool:
        return bool(select.select([self.fileno()], [], [], timeout_s)[0])

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        if self._control is None:
            raise LaunchError("the fork server is not running")
        deadline = time.monotonic() + timeout_s
        if not self._readable(max(0.0, deadline - time.monotonic())):
            self.close()
            raise LaunchError(f"the fork server did not answer within {timeout_s:.0f} s")
        try:
            data = self._control.recv(_MESSAGE_BYTES)
        except ConnectionError:
            data = b""
        if not data:
            raise self._lost()
        return dict(json.loads(data))

    def _lost(self) -> LaunchError:
        code = self._process.wait(5) if self._process else None
        self.close()
        return LaunchError(
            f"the fork server has died (status {code}); the next launch starts a new one"
        )


def _server_environment() -> dict[str, str]:
    """Loopback only, a heap that keeps freed memory, and no compute threads started by an
    import."""
    return {
        **HEAP,
        **os.environ,
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
