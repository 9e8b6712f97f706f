"""Leases are exclusive, all or none, freed by the kernel when their owner dies, never inherited."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_dnnbench.controller.leases import VARIABLE, Leases, lease_directory
from pytest_dnnbench.errors import LaunchError, UsageError
from tests.patience import HANG_S

FOUR = ["gpu a", "gpu b", "gpu c", "gpu d"]
HOLDER = """
import sys, time
from pytest_dnnbench.controller.leases import Leases
with Leases(timeout_s=600).take({names!r}, {count}) as taken:
    print(",".join(taken), flush=True)
    time.sleep(600)
"""
CONTENDER = """
import os, pathlib, random, sys, time
from pytest_dnnbench.controller.leases import Leases
folder, names, seed = pathlib.Path(sys.argv[1]), {names!r}, int(sys.argv[2])
dice, leases = random.Random(seed), Leases(timeout_s=600)
for _ in range(12):
    with leases.take(names, dice.randint(1, len(names))) as taken:
        for name in taken:
            # Fails if another process has the device.
            os.close(os.open(folder / name, os.O_CREAT | os.O_EXCL))
        time.sleep(0.002)
        for name in taken:
            (folder / name).unlink()
"""


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "leases"))
    return tmp_path / "leases"


def hold(count: int) -> subprocess.Popen[str]:
    """Another process that takes leases and prints which."""
    script = HOLDER.format(names=FOUR, count=count)
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    with process.stdout as output:
        return output.readline().strip()


def finish(process: subprocess.Popen[Any]) -> None:
    process.kill()
    process.wait()


def test_the_first_devices_are_given_and_two_launches_share_none() -> None:
    leases = Leases(timeout_s=0)
    with leases.take(FOUR, 2) as first, leases.take(FOUR, 2) as second:
        assert (first, second) == (("gpu a", "gpu b"), ("gpu c", "gpu d"))
        with (
            pytest.raises(LaunchError, match=r"waiting for 1 of gpu a.*--dnn-lease-timeout"),
            leases.take(FOUR, 1),
        ):
            pass
    with leases.take(FOUR, 4) as everything:
        assert everything == tuple(FOUR)


def test_too_few_free_devices_leave_those_free_to_others() -> None:
    leases = Leases(timeout_s=0)
    with leases.take(FOUR, 1):
        with pytest.raises(LaunchError), leases.take(FOUR, 4):
            pass
        with leases.take(FOUR, 3) as rest:
            assert rest == ("gpu b", "gpu c", "gpu d")


def test_a_wait_names_the_process_that_holds_the_devices_and_ends_when_it_dies() -> None:
    announced: list[str] = []
    holder = hold(4)
    try:
        assert first_line(holder) == ",".join(FOUR)

        def kill_the_holder(line: str) -> None:
            announced.append(line)
            holder.send_signal(signal.SIGKILL)

        with Leases(timeout_s=HANG_S, announce=kill_the_holder).take(FOUR, 2) as taken:
            assert taken == ("gpu a", "gpu b")
    finally:
        finish(holder)
    names = ", ".join(FOUR)
    assert announced == [f"dnnbench: waiting for 2 of {names}; held by process {holder.pid}"]


def test_a_big_launch_is_not_starved_by_small_ones_behind_it() -> None:
    leases, order = Leases(timeout_s=HANG_S), list[str]()
    with leases.take(FOUR, 1):
        big = _in_thread(leases, 4, lambda: order.append("big"))
        while leases.holder("turnstile") is None:
            time.sleep(0.001)
        small = _in_thread(leases, 1, lambda: order.append("small"))
        time.sleep(0.1)
        assert order == []
    big.join()
    small.join()
    assert order == ["big", "small"]


def _in_thread(leases: Leases, count: int, then: Callable[[], None]) -> threading.Thread:
    def take() -> None:
        with leases.take(FOUR, count):
            then()

    thread = threading.Thread(target=take)
    thread.start()
    return thread


def test_many_processes_of_all_sizes_never_meet_and_never_deadlock(tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    script = CONTENDER.format(names=FOUR)
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(used), str(seed)]) for seed in range(4)
    ]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    assert not list(used.iterdir())


def test_neither_a_program_nor_a_fork_started_meanwhile_keeps_a_lease() -> None:
    leases = Leases(timeout_s=0)
    with leases.take(FOUR, 4):
        program = subprocess.Popen(["sleep", "600"], close_fds=False)
        fork = os.fork()
        if fork == 0:
            signal.pause()
            os._exit(0)
    try:
        with leases.take(FOUR, 4):
            pass
    finally:
        os.kill(fork, signal.SIGKILL)
        os.waitpid(fork, 0)
        finish(program)


def test_names_never_become_paths(directory: Path) -> None:
    with Leases(timeout_s=0).take(["gpu MIG-GPU-1/../../2"], 1):
        assert sorted(path.name for path in directory.iterdir()) == [
            "gpu_MIG-GPU-1_______2.lock",
            "turnstile.lock",
        ]


def test_the_directory_is_private_and_others_are_refused(directory: Path) -> None:
    assert lease_directory().stat().st_mode & 0o777 == 0o700
    directory.chmod(0o777)
    with pytest.raises(UsageError, match=r"chmod 700"):
        lease_directory()
    directory.rmdir()
    directory.symlink_to("/")
    with pytest.raises(UsageError, match="not a directory of yours"):
        lease_directory()


def test_without_the_variable_the_users_runtime_directory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert lease_directory() == tmp_path / "pytest-dnnbench"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert lease_directory() == tmp_path / f"pytest-dnnbench-{os.getuid()}"


class NoFlock:
    """`flock` of a file system that has no locks, and how often it was asked."""

    def __init__(self, number: int) -> None:
        self.number, self.calls = number, 0

    def __call__(self, descriptor: int, operation: int) -> None:
        self.calls += 1
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_session_of_one_launch_at_a_time_goes_on_without_locks_and_says_so_once(
    number: int, monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    flock, lines = NoFlock(number), list[str]()
    monkeypatch.setattr("fcntl.flock", flock)
    leases = Leases(timeout_s=HANG_S, announce=lines.append)
    for _ in range(3):
        with leases.take(FOUR, 2) as taken:
            assert taken == ("gpu a", "gpu b")
    (line,) = lines
    assert line.startswith(f"dnnbench: the file system of {directory} has no locks")
    assert os.strerror(number) in line
    assert f"name a directory on another one in {VARIABLE}" in line
    assert flock.calls == 1


def test_launches_side_by_side_are_refused_without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", NoFlock(errno.ENOSYS))
    leases = Leases(timeout_s=HANG_S, needed=True)
    with (
        pytest.raises(LaunchError, match=f"{VARIABLE}; launches that run side by side need leases"),
        leases.take(FOUR, 1),
    ):
        pass


def test_another_error_of_a_lock_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", NoFlock(errno.EIO))
    with pytest.raises(LaunchError, match=VARIABLE), Leases(timeout_s=HANG_S).take(FOUR, 1):
        pass
    assert not [link for link in open_files() if link.endswith(".lock")]


def open_files() -> list[str]:
    """The paths of this process's open files."""
    paths = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return paths
