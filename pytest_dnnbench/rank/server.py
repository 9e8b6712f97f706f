"""The fork server: one quiet process with everything imported, from which fresh ranks are forked in
milliseconds.

    pytest ──(socket pair: JSON, with file descriptors)──> fork server ──fork──> rank 0, rank 1, ...
      ^                                                                             │
      └───────────(per rank: a pipe for its result, a page for its status)──────────┘
                                fork server <──(per rank: what it prints; see log.py)──┘

Started as `python -m pytest_dnnbench.rank.server FD`. It never touches a GPU and has a single
thread, so that a fork is a clean copy. Each rank leads its own session of processes, which dies
with it. A process that left the session (setsid) becomes a child of the server when its parent
ends, and is killed when the last rank of the launch has ended. When the pytest process ends, in
whatever way, the socket closes: the server then kills every rank and removes the folders of its
launches. When the server ends, the kernel kills its ranks. Not here: what a rank does (entry.py).
"""

import ctypes
import gc
import glob
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NoReturn

from pytest_dnnbench.frames import SpawnMessage
from pytest_dnnbench.proc import children_of, descendants_of
from pytest_dnnbench.rank.log import Log
from pytest_dnnbench.starting import started

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

_ORPHANS_S = 2.0
"""How long the end of a launch may wait for killed processes: the kernel may keep one that waits
for a device."""

_MESSAGE_BYTES = 1 << 17
_C_LIBRARY = ctypes.CDLL(None, use_errno=True)

Message = dict[str, Any]


class Server:
    """Forks a rank for each "spawn", signals a rank for each "signal", and reports each exit.

    `scratch` is how the path of every folder of a launch begins.
    """

    def __init__(self, control: socket.socket, scratch: str) -> None:
        self.control = control
        self.scratch = scratch
        self.children: set[int] = set()
        self.logs: dict[int, Log] = {}
        # What an import has started is no rank's affair.
        self.own = {os.getpid(), *children_of(os.getpid())}
        _C_LIBRARY.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self.wake, self._wake_end = os.pipe()
        os.set_blocking(self._wake_end, False)
        self.poll = select.poll()
        self.poll.register(control, select.POLLIN)
        self.poll.register(self.wake, select.POLLIN)
        signal.set_wakeup_fd(self._wake_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self.stop())

    def serve(self) -> NoReturn:
        """Answers until the controller closes the socket."""
        while True:
            ready = [descriptor for descriptor, _ in self.poll.poll()]
            for log in [log for log in self.logs.values() if log.pipe in ready]:
                if not log.take():
                    # No process can write any more. `_reap` will see the end of the rank.
                    self.poll.unregister(log.pipe)
            if self.wake in ready:
                os.read(self.wake, 4096)
                self._reap()
            if self.control.fileno() in ready:
                content, descriptors = _received(self.control)
                if not content:
                    self.stop()
                message = json.loads(content)
                if message["op"] == "spawn":
                    self._spawn(message, descriptors)
                elif message["pid"] in self.children:
                    self._signal(message["pid"], message["signal"], message["group"])

    def stop(self) -> NoReturn:
        """Kills every rank with all that it started, removes the folders that the controller no
        longer can, and ends at once."""
        for pid in self.children:
            self._signal(pid, signal.SIGKILL, True)
        self._end_orphans()
        for folder in glob.glob(f"{glob.escape(self.scratch)}*"):
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)

    def _spawn(self, message: Message, descriptors: list[int]) -> None:
        spawn = SpawnMessage.of(message)
        parent, (readable, writable) = os.getpid(), os.pipe()
        log = Log(spawn.output, readable)
        pid = started(os.fork)
        if pid == 0:
            log.forget()
            self._become_rank(parent, spawn, descriptors, writable)
        for descriptor in (*descriptors, writable):
            os.close(descriptor)
        self.children.add(pid)
        self.logs[pid] = log
        self.poll.register(readable, select.POLLIN)
        self.send({"op": "spawned", "token": message["token"], "pid": pid})

    def _become_rank(
        self, parent: int, message: SpawnMessage, descriptors: list[int], output: int
    ) -> NoReturn:
        status = 70
        try:
            os.setsid()
            _C_LIBRARY.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self.control.close()
            for log in self.logs.values():
                log.forget()
            from pytest_dnnbench.rank import entry

            request, result, page, *more = descriptors
            store = more[0] if more else None
            status = entry.main(message, request, result, page, output, store)
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        """Takes the ends of ranks, and of orphans that have become children of this process."""
        for pid, status in _ended():
            if pid in self.children:
                self._signal(pid, signal.SIGKILL, True)
                self.children.discard(pid)
                if not self.children:
                    self._end_orphans()
                log = self.logs.pop(pid)
                with suppress(KeyError):
                    self.poll.unregister(log.pipe)
                log.close()
                self.send({"op": "exited", "pid": pid, "code": os.waitstatus_to_exitcode(status)})

    def _end_orphans(self) -> None:
        """Kills what ranks have started and left behind, until nothing is left."""
        deadline = time.monotonic() + _ORPHANS_S
        while time.monotonic() < deadline:
            orphans = set(descendants_of(os.getpid())) - self.own
            if not orphans:
                return
            for pid in orphans:
                self._signal(pid, signal.SIGKILL, False)
            for _ in _ended():
                pass
            time.sleep(0.002)

    @staticmethod
    def _signal(pid: int, number: int, group: bool) -> None:
        with suppress(ProcessLookupError, PermissionError):
            (os.killpg if group else os.kill)(pid, number)

    def send(self, message: Message) -> None:
        """Sends the controller a message. Without a controller the server stops."""
        try:
            self.control.send(json.dumps(message).encode())
        except OSError:
            self.stop()


def _received(control: socket.socket) -> tuple[bytes, list[int]]:
    """The next message and its descriptors; nothing where the controller has closed the socket, be
    it with messages of ours unread."""
    try:
        content, descriptors, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, 4)
    except ConnectionError:
        return b"", []
    return content, descriptors


def _ended() -> Iterator[tuple[int, int]]:
    """Process id and status of each child that has ended."""
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            yield pid, status


def open_gpus() -> list[str]:
    """The files of GPUs that this process has open. A rank forked from it could use no GPU."""
    paths = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return sorted({path for path in paths if path.startswith("/dev/nvidia")})


def preload(modules: list[str]) -> dict[str, str]:
    """Imports the modules that every rank will need. Returns the error of each that could not be
    imported."""
    errors = {}
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {error}"
    return errors


def main(control_descriptor: int) -> NoReturn:
    """Imports the modules that the first message names, answers "ready", and serves."""
    control = socket.socket(fileno=control_descriptor)
    control.set_inheritable(False)
    request, _ = _received(control)
    if not request:
        os._exit(0)
    message = json.loads(request)
    sys.path[:] = message["sys_path"]
    errors = preload(message["preload"])
    # Ranks share the pages of these objects as long as no collector touches them.
    gc.collect()
    gc.freeze()
    threads = len(os.listdir("/proc/self/task"))
    server = Server(control, message["scratch"])
    ready = {"errors": errors, "threads": threads, "gpus": open_gpus()}
    server.send({"op": "ready", **ready})
    server.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
