"""The controller's handle on the fork server (rank/server.py): starts it, asks it for ranks, hears
of their end."""

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
from dataclasses import dataclass
from typing import Any, Self

from pytest_dnnbench.errors import LaunchError

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
"""What every rank needs, and what torch imports late: DistributedDataParallel loads torch._dynamo
when built."""

HEAP = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_MMAP_MAX_": "0",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""The C library keeps freed memory. By default it hands large pieces back to the kernel, or not, by
the luck of what was freed before: one training step then takes 3 page faults in one launch and
11,000 in the next, a tenth of its time. It also asks for huge pages, which the kernel gives 2 MiB
at a time: 1,800 page faults to the end of resnet18's first step instead of 37,000. Variables that
the user has set stay."""

_MESSAGE_BYTES = 1 << 17


@dataclass(frozen=True, slots=True)
class Exited:
    """A rank's process has ended: an exit status, or minus the number of the signal that killed
    it."""

    pid: int
    code: int


class ForkServer:
    """Started at first use, once for a session, and again should it die. Close it, or use it in a
    `with`."""

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
        """Starts the server without waiting for its imports: they go on while pytest collects."""
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
        """Returns when ranks can be forked at once. Raises LaunchError when the server cannot
        import torch."""
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
                f"the fork server has {message['threads']} threads after its imports, so forked ranks could deadlock:"
                f" one of {', '.join(self.preload)} starts threads when imported"
            )
        self._ready = True

    def spawn(self, message: Mapping[str, Any], request: int, result: int, board: int) -> int:
        """Forks a rank, hands it the three descriptors, and returns its process id."""
        self.wait_ready()
        self._tokens += 1
        self._send({"op": "spawn", "token": self._tokens, **message}, [request, result, board])
        while True:
            answer = self._receive(START_TIMEOUT_S)
            if answer["op"] == "spawned" and answer["token"] == self._tokens:
                return int(answer["pid"])
            self._note(answer)

    def signal(self, pid: int, number: int, *, group: bool = False) -> None:
        """Signals a rank, or with `group` it and whatever it started. Nothing happens when it has
        ended."""
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
        """The server's process; None while there is none."""
        return self._process.pid if self._process else None

    def fileno(self) -> int:
        """The descriptor that becomes readable when a rank has ended; for `select`."""
        if self._control is None:
            raise LaunchError("the fork server is not running")
        return self._control.fileno()

    def close(self) -> None:
        """Ends the server and every rank that is still there."""
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
    """Loopback only, a heap that keeps what is freed, and no library of compute threads started by
    an import."""
    return {
        **HEAP,
        **os.environ,
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
