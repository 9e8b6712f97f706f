"""A process is started although the kernel refuses it for a moment, and no session is lost to a
program that could not be executed once."""

import errno
import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_dnnbench import starting
from pytest_dnnbench.controller.forkserver import PRELOAD, ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import LaunchError
from pytest_dnnbench.starting import PASSING, PAUSES_S, started
from tests.fake_launches import CONFTEST
from tests.patience import HANG_S
from tests.rank import programs
from tests.starts_that_fail import fail_first

CASES = """
def test_train(framework, model, gpus, process_group, dnnbench):
    dnnbench.measure(framework, model, process_group(gpus), phase="train")
"""
REFUSING = """
import pytest
from tests.starts_that_fail import fail_first

def pytest_configure(config):
    patch = pytest.MonkeyPatch()
    config.add_cleanup(patch.undo)
    config.failed = fail_first(patch)

def pytest_terminal_summary(terminalreporter, config):
    terminalreporter.write_line(f"refused at first: {config.failed}")
"""
HERE = "tests.starts_that_fail"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, which take no time."""
    slept: list[float] = []
    monkeypatch.setattr(starting, "time", SimpleNamespace(sleep=slept.append))
    return slept


def test_a_program_that_another_has_open_is_started_once_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's own error, ETXTBSY."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o700)
    writing = os.open(program, os.O_WRONLY)
    monkeypatch.setattr(starting, "time", SimpleNamespace(sleep=lambda _: os.close(writing)))
    with pytest.raises(OSError, match="Text file busy"):
        subprocess.run([program])
    assert started(lambda: subprocess.run([program])).returncode == 3


@pytest.mark.parametrize("number", sorted(PASSING), ids=errno.errorcode.__getitem__)
def test_an_error_that_may_pass_is_raised_once_every_try_has_had_it(
    pauses: list[float], number: int
) -> None:
    tries: list[int] = []

    def refused() -> None:
        tries.append(number)
        raise OSError(number, "")

    with pytest.raises(OSError, match=f"Errno {number}"):
        started(refused)
    assert pauses == list(PAUSES_S)
    assert len(tries) == len(PAUSES_S) + 1


def test_a_program_that_is_not_there_is_looked_for_once(pauses: list[float]) -> None:
    with pytest.raises(FileNotFoundError):
        started(lambda: subprocess.run(["no-such-program-of-anybody"]))
    assert pauses == []


def test_ranks_run_whose_server_and_forks_were_refused_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = fail_first(monkeypatch)
    monkeypatch.setenv("DNNBENCH_TEST_FORKS_FAIL", "2")
    with ForkServer((*PRELOAD, HERE)) as server:
        ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S)
        assert ranks.run(programs.sum_of_ranks) == [1, 1]
        assert server.preload_errors == {}
    assert [command for command in failed if "pytest_dnnbench.rank.server" in command]


def test_a_server_that_cannot_be_started_leaves_nothing_and_starts_later(
    pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.listdir("/proc/self/fd")
    with ForkServer() as server:
        with monkeypatch.context() as patch:
            patch.setattr(ForkServer, "_command", lambda *_: ["no-such-program-of-anybody"])
            with pytest.raises(LaunchError, match=r"cannot be started: .*No such"):
                server.wait_ready()
        assert server.pid is None
        assert os.listdir("/proc/self/fd") == before
        server.start()
        assert server.pid is not None


def test_no_session_is_lost_to_a_program_that_could_not_be_executed_once(
    pytester: pytest.Pytester,
) -> None:
    """pytest-benchmark reads the machine from a handful of programs: the error of one of them, such
    as dmesg, left the session unsaved."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(refusing=REFUSING, test_cases=CASES)
    pytester.syspathinsert()
    result = pytester.runpytest_inprocess(
        *("-p", "refusing", "--dnn-device", "cpu", "--dnn-models", "tests.tiny_models:tiny"),
        *("--dnn-frameworks", "single", "--dnn-launches", "1", "--benchmark-json", "out.json"),
    )
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["refused at first: *'git *"])
    result.stdout.no_fnmatch_line("*could not be saved*")
    saved = json.loads((pytester.path / "out.json").read_text())
    assert len(saved["benchmarks"]) == 1
    assert saved["machine_info"]["cpu"]["count"] == os.cpu_count()
