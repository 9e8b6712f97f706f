"""Leases on devices: two launches of one user on one machine never share a GPU or a CPU core.

A lease is an exclusive `flock` on a file of its own, so the kernel frees the leases of a process
that died. The files are never deleted: a lock on an unlinked file protects nothing. A launch takes
all its devices at once or none, and only the launch that holds the turnstile may try. So no launch
holds a device while it waits for another, nothing can deadlock, and launches of few devices cannot
starve one of many. Not here: which devices a launch needs (placement.py).

Some file systems have no `flock`. There a session that runs one launch at a time says so once and
goes on without leases: launches of other sessions beside it are seen as load of other processes. A
session whose launches run side by side needs leases and is refused.
"""

import errno
import fcntl
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path

from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import LaunchError, UsageError

VARIABLE = "DNNBENCH_LEASE_DIR"

TURNSTILE = "turnstile"

QUIET_S = 1.0
"""How long a launch waits before it announces what it waits for."""

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What a file system without locks answers."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 0.25


def lease_directory() -> Path:
    """The user's own directory of lock files, created if it is missing. Raises UsageError if
    others could write to it."""
    named, runtime = os.environ.get(VARIABLE), os.environ.get("XDG_RUNTIME_DIR")
    if named:
        path = Path(named)
    elif runtime and os.access(runtime, os.W_OK):
        path = Path(runtime) / "pytest-dnnbench"
    else:
        path = Path(tempfile.gettempdir()) / f"pytest-dnnbench-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise UsageError(
            f"the directory of leases cannot be created ({error}): name another one in {VARIABLE}"
        ) from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise UsageError(
            f"the directory of leases, {path}, is not a directory of yours that only you can write"
            f" to: remove it or `chmod 700` it, or name another one in {VARIABLE}"
        )
    return path


class Leases:
    """The leases of one process. `announce` is called once per wait, with a line that says what the
    launch waits for. `needed` says whether a launch may not run without its leases, where the file
    system has none."""

    def __init__(
        self,
        *,
        timeout_s: float,
        announce: Callable[[str], None] = lambda _: None,
        needed: bool = False,
    ) -> None:
        self.timeout_s = timeout_s
        self.announce = announce
        self.needed = needed
        self._without = False

    @cached_property
    def directory(self) -> Path:
        """Determined, and created, when the first lease is taken."""
        return lease_directory()

    @contextmanager
    def take(self, names: Sequence[str], count: int) -> Iterator[tuple[str, ...]]:
        """Holds the first `count` of the named devices that are free; yields their names.

        Waits for them. Raises LaunchError after `timeout_s`, naming the processes that hold them.
        """
        if count > len(names):
            raise LaunchError(
                f"{counted(count, 'device')} needed and {len(names)} here: give fewer with --gpus"
            )
        with ExitStack() as held:
            taken = self._taken(names, count, held)
            yield tuple(names[:count] if taken is None else taken)

    def _taken(self, names: Sequence[str], count: int, held: ExitStack) -> tuple[str, ...] | None:
        """Takes the leases, which `held` gives back; None without leases."""
        if self._without:
            return None
        try:
            wait = _Wait(self, count)
            with ExitStack() as turn:
                while not (entered := self._try([TURNSTILE], 1)):
                    wait.pause([TURNSTILE])
                turn.enter_context(_Held(entered))
                while not (descriptors := self._try(names, count)):
                    wait.pause(names)
                held.enter_context(_Held(descriptors))
        except _NoLocks as error:
            self._go_on_without(error)
            return None
        return tuple(descriptors)

    def _go_on_without(self, error: "_NoLocks") -> None:
        """Says once that there are no leases. Raises LaunchError if they are needed."""
        what = (
            f"the file system of {self.directory} has no locks ({error}), so devices cannot be"
            f" leased: name a directory on another one in {VARIABLE}"
        )
        if self.needed:
            raise LaunchError(f"{what}; launches that run side by side need leases")
        self._without = True
        self.announce(
            f"dnnbench: {what}; going on without leases, so keep other sessions off this machine"
        )

    def holder(self, name: str) -> int | None:
        """The id of the process that holds a lease, 0 if it has not yet written it; None if the
        lease is free."""
        descriptor = self._open(name)
        try:
            if _locked(descriptor, fcntl.LOCK_SH):
                return None
            text = os.pread(descriptor, 20, 0)
            return int(text) if text.isdigit() else 0
        finally:
            os.close(descriptor)

    def _try(self, names: Sequence[str], count: int) -> dict[str, int]:
        """Locks the first `count` free names and returns their descriptors; locks nothing if fewer
        are free."""
        descriptors: dict[str, int] = {}
        with _Held(descriptors) as locks:
            for name in names:
                descriptor = self._open(name)
                locked = False
                try:
                    locked = _locked(descriptor, fcntl.LOCK_EX)
                finally:
                    if not locked:
                        os.close(descriptor)
                if not locked:
                    continue
                descriptors[name] = descriptor
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                if len(descriptors) == count:
                    locks.keep()
                    return dict(descriptors)
        return {}

    def _open(self, name: str) -> int:
        """Opens the lock file of a name. It is closed on exec, so that neither the fork server nor
        a rank inherits a lease."""
        path = self.directory / f"{re.sub(r'[^A-Za-z0-9-]', '_', name)}.lock"
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise LaunchError(
                f"a lease cannot be taken ({error}): name another directory in {VARIABLE}"
            ) from None


class _NoLocks(Exception):
    """The file system has no locks; the text is its reason."""


def _locked(descriptor: int, kind: int) -> bool:
    """Locks a file, and says whether that went at once. Raises _NoLocks, and LaunchError for any
    other reason."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise _NoLocks(error.strerror) from None
        raise LaunchError(
            f"a lease cannot be taken ({error}): name another directory in {VARIABLE}"
        ) from None
    return True


class _Held:
    """Locks that are released at the end of a block, unless `keep` was called."""

    def __init__(self, locks: dict[str, int]) -> None:
        self._locks = locks
        self._kept = False

    def __enter__(self) -> "_Held":
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in () if self._kept else self._locks.values():
            # Closing is not enough: a child of a plain fork may have the descriptor too.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def keep(self) -> None:
        self._kept = True


class _Wait:
    """The waiting of one launch: pauses that grow, one announcement, one deadline."""

    def __init__(self, leases: Leases, count: int) -> None:
        self._leases = leases
        self._count = count
        self._began = time.monotonic()
        self._pause_s = _FIRST_PAUSE_S
        self._said = False

    def pause(self, names: Sequence[str]) -> None:
        """Sleeps a little. Raises LaunchError if the launch has waited too long."""
        waited = time.monotonic() - self._began
        if waited >= self._leases.timeout_s:
            raise LaunchError(
                f"{self._about(names)} after {waited:.0f} s: end what holds them, or wait longer"
                " with --dnn-lease-timeout"
            )
        if waited >= QUIET_S and not self._said:
            self._said = True
            self._leases.announce(f"dnnbench: {self._about(names)}")
        time.sleep(min(self._pause_s, max(0.0, self._leases.timeout_s - waited)))
        self._pause_s = min(_LONGEST_PAUSE_S, self._pause_s * 1.5)

    def _about(self, names: Sequence[str]) -> str:
        holders = {name: pid for name in names if (pid := self._leases.holder(name)) is not None}
        pids = ", ".join(map(str, sorted({pid for pid in holders.values() if pid}))) or "(unknown)"
        if names == [TURNSTILE]:
            return f"waiting behind a launch of process {pids}, which waits for its own devices"
        held = "" if list(holders) == [*names] else f"{', '.join(holders)} "
        return f"waiting for {self._count} of {', '.join(names)}; {held}held by process {pids}"
