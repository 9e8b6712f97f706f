"""A fork server or a pytest that is stopped or killed, and what ranks leave behind."""

import glob
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import LaunchError, RankCrashed
from pytest_dnnbench.proc import children_of, is_stopped
from pytest_dnnbench.rank.server import open_gpus
from tests.patience import HANG_S, failure_at_hang
from tests.rank import fault_programs, programs
from tests.rank.test_ranks import await_end

ROOT = Path(__file__).resolve().parents[2]
SLOW_IMPORT = "slow_to_import_for_a_test"


def wait_for(condition: Callable[[], object]) -> None:
    """Returns once the condition holds."""
    deadline = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def script(*lines: str, **settings: str) -> "subprocess.Popen[str]":
    """A process that stands for pytest."""
    begin = [
        "import os",
        "from pytest_dnnbench.controller.forkserver import ForkServer",
        "from pytest_dnnbench.controller.ranks import Ranks",
        "from tests.rank import fault_programs, programs",
    ]
    return subprocess.Popen(
        [sys.executable, "-c", "\n".join([*begin, *lines])],
        cwd=ROOT,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_rank_that_a_limit_of_open_files_forbids_is_refused_with_the_limit(
    server: ForkServer,
) -> None:
    """The case failed with a bare OSError, and each try left descriptors open."""
    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S)
    assert ranks.run(programs.sum_of_ranks) == [1, 1]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = os.listdir("/proc/self/fd")
    spare = os.dup(0)
    os.close(spare)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare + 2, hard))
        with pytest.raises(
            LaunchError, match=f"rank 0 of 2 cannot .* may open {spare + 2:,} files"
        ):
            ranks.run(programs.sum_of_ranks)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert os.listdir("/proc/self/fd") == before
    assert ranks.run(programs.sum_of_ranks) == [1, 1]


def test_a_stopped_server_holds_a_launch_for_its_time_out_only() -> None:
    with ForkServer(["torch"]) as server:
        server.wait_ready()
        ranks = Ranks(server, ["cpu"], threads=1, timeout_s=3)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        with pytest.raises(LaunchError, match="did not answer within 3 s, for it is stopped"):
            ranks.run(programs.sum_of_ranks)
        ranks.timeout_s = HANG_S  # of a fresh server
        assert ranks.run(programs.sum_of_ranks) == [0]


def test_a_server_that_is_stopped_while_it_imports_is_given_up() -> None:
    with ForkServer(["torch"]) as server:
        server.start()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        with pytest.raises(LaunchError, match="did not answer within 2 s, for it is stopped"):
            Ranks(server, ["cpu"], threads=1, timeout_s=2).run(programs.sum_of_ranks)


def test_a_server_that_is_stopped_during_a_launch_ends_with_its_ranks(tmp_path: Path) -> None:
    with ForkServer(["torch"]) as server:
        ranks = Ranks(server, ["cpu"], threads=1, timeout_s=HANG_S)
        lost = failure_at_hang(
            ranks,
            lambda: ranks.run(fault_programs.stop_parent_and_sleep, str(tmp_path / "pid")),
            lambda hung: False,
        )
        assert isinstance(lost, LaunchError)
        assert f"did not answer within {ranks.timeout_s:g} s, for it is stopped" in str(lost)
        await_end([int((tmp_path / "pid").read_text())])


def test_a_result_that_came_before_the_server_was_stopped_counts() -> None:
    with ForkServer(["torch"]) as server:
        ranks = Ranks(server, ["cpu"], threads=1, timeout_s=HANG_S)
        assert ranks.run(fault_programs.stop_parent) == [None]
        assert ranks.run(programs.sum_of_ranks) == [0]


def test_a_pytest_that_was_stopped_does_not_call_a_sound_rank_hung(tmp_path: Path) -> None:
    """It and its ranks are stopped for longer than the time-out, as by a frozen container. Its
    clock says so: the time-out is one that no machine reaches, and is not waited for."""
    end, thawed = tmp_path / "end", tmp_path / "thawed"
    run = f"print(ranks.run(fault_programs.rest_until, {str(end)!r}), flush=True)"
    end.touch()
    with script(
        "import time",
        "from pytest_dnnbench.controller.deadline import Deadline",
        f"frozen_s = lambda: {2 * HANG_S} if os.path.exists({str(thawed)!r}) else 0.0",
        "Deadline.__init__.__defaults__ = (lambda: time.monotonic() + frozen_s(),)",
        "server = ForkServer(['torch'])",
        "server.wait_ready()",
        f"ranks = Ranks(server, ['cpu'], threads=1, timeout_s={HANG_S})",
        run,
        f"os.unlink({str(end)!r})",
        run,
        "server.close()",
    ) as controller:
        assert controller.stdout is not None
        assert controller.stdout.readline() == "['rested']\n"
        wait_for(lambda: not end.exists())
        wait_for(lambda: [c for s in children_of(controller.pid) for c in children_of(s)])
        (server,) = children_of(controller.pid)
        stopped = [controller.pid, server, *children_of(server)]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: is_stopped(controller.pid))
        thawed.touch()
        end.touch()
        for pid in reversed(stopped):
            os.kill(pid, signal.SIGCONT)
        assert controller.stdout.readline() == "['rested']\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_pytest_that_dies_while_the_server_imports_leaves_no_folder(
    number: int, tmp_path: Path
) -> None:
    (tmp_path / f"{SLOW_IMPORT}.py").write_text("import time\ntime.sleep(2)\n")
    settings = {"TMPDIR": str(tmp_path), "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with script(
        f"server = ForkServer(['{SLOW_IMPORT}'])",
        "Ranks(server, ['cpu'], threads=1, timeout_s=600).run(programs.sum_of_ranks)",
        **settings,
    ) as controller:
        pattern = str(tmp_path / f"dnnbench-{controller.pid}-*")
        wait_for(lambda: glob.glob(pattern))
        (server,) = children_of(controller.pid)
        controller.send_signal(number)
        controller.wait()
    await_end([server])
    assert not glob.glob(pattern)


def test_a_process_that_left_the_session_of_its_rank_ends_with_the_launch(
    two_ranks: Ranks,
) -> None:
    await_end(two_ranks.run(fault_programs.leave_a_daemon))


def test_a_daemon_of_a_rank_that_is_killed_ends_with_the_launch(
    two_ranks: Ranks, tmp_path: Path
) -> None:
    with pytest.raises(RankCrashed):
        two_ranks.run(fault_programs.leave_a_daemon_and_die, str(tmp_path))
    daemons = [int(path.read_text()) for path in tmp_path.iterdir()]
    assert daemons
    await_end(daemons)


def test_workers_of_a_loader_leave_no_folders(server: ForkServer, tmp_path: Path) -> None:
    # Not in /tmp, where other sessions' loaders have folders too.
    here = {"TMPDIR": str(tmp_path)}
    ranks = Ranks(server, ["cpu"], threads=1, timeout_s=HANG_S, environment=here)
    assert ranks.run(fault_programs.keep_loader_workers) == [8]
    assert not list(tmp_path.iterdir())


def test_a_gpu_that_an_import_has_opened_is_found_and_the_server_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ranks forked from such a server die with "Cannot re-initialize CUDA in forked subprocess"."""
    assert open_gpus() == []
    paths = iter(["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia0"])
    monkeypatch.setattr(os, "readlink", lambda _: next(paths, "/dev/null"))
    gpus = open_gpus()
    assert gpus == ["/dev/nvidia0", "/dev/nvidiactl"]
    monkeypatch.undo()
    ready = {"op": "ready", "errors": {}, "threads": 1, "gpus": gpus}
    with ForkServer(["torch", "their_framework"]) as server:
        monkeypatch.setattr(server, "_receive", lambda *_: ready)
        with pytest.raises(
            LaunchError, match=r"has opened /dev/nvidia0.*their_framework uses a GPU"
        ):
            server.wait_ready()


def test_a_server_whose_answer_nobody_reads_ends_without_a_word(tmp_path: Path) -> None:
    """A controller that ends with a message unread resets the connection."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "pytest_dnnbench.rank.server", str(theirs.fileno())]
    server = subprocess.Popen(
        command, cwd=ROOT, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True
    )
    theirs.close()
    first = {"sys_path": sys.path, "preload": [], "scratch": str(tmp_path / "scratch-")}
    ours.send(json.dumps(first).encode())
    assert select.select([ours], [], [], HANG_S)[0], "its answer is there"
    ours.close()
    assert server.communicate(timeout=HANG_S)[1] == ""
    assert server.returncode == 0
