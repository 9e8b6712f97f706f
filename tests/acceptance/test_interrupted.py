"""A session that is stopped, killed, or cannot save: nothing hangs, no rank is left, nothing
measured is lost."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_dnnbench.session.interrupts import PATIENCE_S
from tests.fake_launches import CONFTEST
from tests.patience import HANG_S

ROOT = Path(__file__).resolve().parents[2]
CASES = """
import os, signal
from pathlib import Path
from tests.rank import programs

def test_measured(framework, model, gpus, process_group, dnnbench):
    dnnbench.measure(framework, model, process_group(gpus), phase="train")

def test_stays(process_group):
    process_group(2).run(programs.say_pid_and_sleep, os.environ["PIDS"])
"""
SERVER_DIES = """
import os, signal
from pytest_dnnbench.session.resources import resources
from tests.rank import programs

def test_before(process_group):
    assert process_group(2).run(programs.sum_of_ranks) == [1, 1]

def test_after_a_death_between_cases(process_group, request):
    server = resources(request.config).server
    os.kill(server.pid, signal.SIGKILL)
    server._process.wait()
    assert process_group(2).run(programs.sum_of_ranks) == [1, 1]

def test_ranks_kill_their_server(process_group):
    process_group(2).run(programs.kill_parent)

def test_goes_on(process_group):
    assert process_group(2).run(programs.sum_of_ranks) == [1, 1]
"""
GONE = """
import shutil
from pathlib import Path

def pytest_runtest_teardown(item):
    storage = Path(item.config.option.benchmark_storage)
    if storage.is_dir():
        shutil.rmtree(storage)
    storage.write_text("a file where a folder should be")
"""
"""A storage that is removed during the session, and cannot be made again."""
TINY = (
    "--dnn-device cpu --dnn-models tests.tiny_models:tiny --dnn-frameworks single"
    " --dnn-batch-size 8 --dnn-steps 2 --dnn-warmup 1"
)


def command(*more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        *TINY.split(),
        "--dnn-launches",
        "1",
        *more,
    ]


@pytest.fixture(autouse=True)
def usual_signals() -> Iterator[None]:
    """A shell's background job ignores Ctrl-C, one of nohup the end of its terminal, and so would
    the sessions that it starts."""
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    hang_up = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGHUP, hang_up)


@pytest.fixture
def start(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """Starts a session whose last test stays; returns it with the process ids of its ranks, once
    they are there."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(test_cases=CASES)
    pids = pytester.mkdir("pids")
    monkeypatch.setenv("PIDS", str(pids))
    monkeypatch.setenv("TMPDIR", str(pytester.mkdir("tmp")))
    running: list[subprocess.Popen[str]] = []

    def begin(*more: str) -> tuple[subprocess.Popen[str], list[int]]:
        session = subprocess.Popen(
            command(*more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        running.append(session)
        deadline = time.monotonic() + HANG_S
        while len(texts := [path.read_text() for path in pids.iterdir()]) < 2 or not all(texts):
            assert session.poll() is None, session.stdout and session.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return session, [int(text) for text in texts]

    yield begin
    for session in running:
        session.kill()
        session.communicate()


def await_end(pids: list[int]) -> None:
    deadline = time.monotonic() + HANG_S
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_session_saves_what_it_has_and_leaves_no_rank(
    start: Any, pytester: pytest.Pytester, number: signal.Signals
) -> None:
    session, pids = start("--benchmark-json", "out.json")
    session.send_signal(number)
    output, _ = session.communicate(timeout=HANG_S)
    assert session.returncode == pytest.ExitCode.INTERRUPTED, output
    await_end(pids)
    saved = json.loads((pytester.path / "out.json").read_text())
    assert [benchmark["params"]["framework"] for benchmark in saved["benchmarks"]] == ["single"]
    assert saved["dnnbench"]["interrupted"] is True
    assert "KeyboardInterrupt" in output
    assert "continue with --dnn-resume" in output


@pytest.mark.parametrize(("interrupts", "pause_s"), [(3, 0.0), (100, 0.05)])
def test_more_interrupts_lose_nothing(
    start: Any, pytester: pytest.Pytester, interrupts: int, pause_s: float
) -> None:
    """A second Ctrl-C within a quarter of a second removed the journal and saved nothing, and one
    after the summary changed the status. A hundred last as long as the session's end takes, and not
    as long as its patience."""
    session, pids = start("--benchmark-json", "out.json", "--benchmark-storage", "saved")
    last_s = time.monotonic() + PATIENCE_S / 3
    for _ in range(interrupts):
        session.send_signal(signal.SIGINT)
        time.sleep(pause_s)
        if time.monotonic() > last_s:
            break
    output, _ = session.communicate(timeout=HANG_S)
    assert session.returncode == pytest.ExitCode.INTERRUPTED, output
    await_end(pids)
    assert len(json.loads((pytester.path / "out.json").read_text())["benchmarks"]) == 1
    journal = pytester.path / "saved" / "dnnbench-journal.jsonl"
    assert len(journal.read_text().splitlines()) == 2, "its head and one launch"


@pytest.mark.parametrize("status", [0, 1])
def test_a_session_that_a_test_ends_early_is_not_complete(
    made_up: None, pytester: pytest.Pytester, status: int
) -> None:
    """`pytest.exit` with a status of success made the journal go, with half of the cases undone."""
    pytester.makepyfile(
        test_cases=CASES.split("def test_stays")[0]
        + "def test_enough():\n    import pytest\n"
        + f"    pytest.exit('enough', returncode={status})\n"
        + "def test_never(framework, model, gpus, process_group, dnnbench): pass\n"
    )
    arguments = ["--benchmark-json", "out.json", "--benchmark-storage", "saved"]
    result = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=HANG_S)
    assert result.returncode == status, result.stdout + result.stderr
    assert (pytester.path / "saved" / "dnnbench-journal.jsonl").exists()
    assert "not all cases ran" in result.stdout
    assert json.loads((pytester.path / "out.json").read_text())["dnnbench"]["interrupted"] is True


def test_ranks_of_a_killed_session_end_by_themselves_and_leave_nothing_behind(
    start: Any, pytester: pytest.Pytester
) -> None:
    session, pids = start()
    assert list((pytester.path / "tmp").glob("dnnbench-*"))
    session.kill()
    session.communicate(timeout=HANG_S)
    await_end(pids)
    deadline = time.monotonic() + HANG_S
    while left := list((pytester.path / "tmp").glob("dnnbench-*")):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.fixture
def made_up(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions in processes of their own, whose launches are made up."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_cases=CASES)


def run(*more: str) -> subprocess.CompletedProcess[str]:
    """A session of the measured cases alone."""
    return subprocess.run(
        command(*more, "-k", "measured"), capture_output=True, text=True, timeout=HANG_S
    )


def kept(output: str) -> list[str]:
    """The frameworks in the file that the output names; removes it."""
    path = Path(output.partition("What was measured is in ")[2].split()[0])
    assert path.stat().st_mode & 0o077 == 0
    saved = json.loads(path.read_text())
    path.unlink()
    kept = [benchmark["extra_info"]["dnnbench"] for benchmark in saved["benchmarks"]]
    return [record["case"]["framework"] for record in kept]


def test_a_full_disk_loses_nothing_that_was_measured(
    made_up: None, pytester: pytest.Pytester
) -> None:
    (pytester.path / "full.json").symlink_to("/dev/full")
    result = run("--benchmark-json", "full.json")
    assert result.returncode == pytest.ExitCode.INTERNAL_ERROR, result.stdout + result.stderr
    assert "the results could not be saved to" in result.stdout
    assert "No space left on device" in result.stdout
    assert "1 passed" in result.stdout
    assert kept(result.stdout) == ["single"]


def test_a_storage_that_goes_away_loses_nothing(made_up: None, pytester: pytest.Pytester) -> None:
    """What could be noticed before the session is refused then (session/test_refusals.py)."""
    pytester.makeconftest(CONFTEST + GONE)
    result = run("--benchmark-autosave", "--benchmark-storage", "storage")
    assert "the results could not be saved to" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
    assert result.returncode == pytest.ExitCode.INTERNAL_ERROR, result.stdout + result.stderr
    assert kept(result.stdout) == ["single"]


def test_a_killed_fork_server_fails_its_case_and_no_other(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(test_cases=SERVER_DIES)
    result = pytester.runpytest_subprocess("--dnn-device", "cpu")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        ["*LaunchError: the fork server has died*the next launch starts a new one*"]
    )


def test_a_storage_outside_the_working_directory_loses_nothing(
    made_up: None, pytester: pytest.Pytester, tmp_path: Path
) -> None:
    """Outside the working directory its very name made pytest-benchmark raise a ValueError."""
    pytester.makeconftest(CONFTEST + GONE)
    storage = str(tmp_path / "storage")
    result = run("--benchmark-storage", storage, "--benchmark-save", "a")
    assert result.returncode == pytest.ExitCode.INTERNAL_ERROR, result.stdout + result.stderr
    assert f"the results could not be saved to {storage}" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
    assert kept(result.stdout) == ["single"]


def test_a_case_that_fails_is_one_failure_and_hides_no_other(
    made_up: None, pytester: pytest.Pytester
) -> None:
    """pytest-benchmark's warnings became errors: of the fixture at teardown, of a file without
    benchmarks at the end."""
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    pytester.makepyfile(
        test_cases="""
        def test_fails_early(framework, model, gpus, process_group, dnnbench):
            raise ValueError("early")

        def test_fails_late(framework, model, gpus, process_group, dnnbench):
            dnnbench.measure("no-such-framework", model, process_group(gpus), phase="train")
        """
    )
    more = ("--benchmark-save", "a", "--junitxml", "junit.xml", "--dnn-gpu-counts", "1")
    result = subprocess.run(command(*more), capture_output=True, text=True, timeout=HANG_S)
    assert result.returncode == pytest.ExitCode.TESTS_FAILED
    assert "2 failed" in result.stdout
    assert "error" not in result.stdout.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert 'errors="0" failures="2"' in (pytester.path / "junit.xml").read_text()
    pytester.makepyfile(
        test_cases="""
        def test_interrupted(framework, model, gpus, process_group, dnnbench):
            raise KeyboardInterrupt
        """
    )
    result = subprocess.run(command(), capture_output=True, text=True, timeout=HANG_S)
    assert result.returncode == pytest.ExitCode.INTERRUPTED
    assert "not used" not in result.stdout + result.stderr
    nothing = subprocess.run(
        command("--benchmark-save", "a", "-k", "nosuch"),
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert nothing.returncode == pytest.ExitCode.NO_TESTS_COLLECTED
    assert "Traceback" not in nothing.stdout + nothing.stderr


def test_measuring_twice_in_one_test_says_what_to_do(
    made_up: None, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(
        test_cases="""
        def test_both(framework, model, gpus, process_group, dnnbench):
            for phase in ("train", "validate"):
                dnnbench.measure(framework, model, process_group(gpus), phase=phase)
        """
    )
    result = subprocess.run(
        command("--dnn-gpu-counts", "1"), capture_output=True, text=True, timeout=HANG_S
    )
    assert result.returncode == pytest.ExitCode.TESTS_FAILED
    assert "called twice in one test" in result.stdout
    assert "FixtureAlreadyUsed" not in result.stdout


def test_sessions_without_pytest_benchmark_go_on(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile("def test_plain(): pass")
    result = pytester.runpytest_subprocess("-p", "no:benchmark")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.OK


def test_cases_without_pytest_benchmark_are_refused_unless_deselected(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where marks are strict: the mark that carries a case's clock is pytest-benchmark's."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile("def test_case(dnnbench): pass\ndef test_plain(): pass")
    strict = ("-p", "no:benchmark", "--strict-markers")
    result = pytester.runpytest_subprocess(*strict)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: 1 case needs pytest-benchmark, which -p no:benchmark *"])
    result.stderr.no_fnmatch_line("*INTERNALERROR*")
    result = pytester.runpytest_subprocess(*strict, "-k", "plain")
    result.assert_outcomes(passed=1, deselected=1)


def test_a_table_that_cannot_be_shown_hides_nothing(
    made_up: None, pytester: pytest.Pytester
) -> None:
    """An error in pytest-benchmark's display, as of a histogram that cannot be written, ended the
    session in its traceback, in place of pytest's own lines."""
    raising = "\ndef pytest_benchmark_scale_unit(unit):\n    raise RuntimeError('no unit')\n"
    pytester.makeconftest(CONFTEST + raising)
    result = run("--benchmark-json", "a.json")
    assert result.returncode == pytest.ExitCode.INTERNAL_ERROR, result.stdout + result.stderr
    assert "could not show its table or draw its histogram: RuntimeError: no unit" in result.stdout
    assert "1 passed" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
    assert json.loads((pytester.path / "a.json").read_text())["benchmarks"]


def test_a_case_in_which_the_session_is_stopped_has_not_failed(
    made_up: None, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(
        test_cases="""
        def test_measured(framework, model, gpus, process_group, dnnbench):
            dnnbench.measure(framework, model, process_group(gpus), phase="train")

        def test_measured_on(framework, model, gpus, process_group, dnnbench):
            raise KeyboardInterrupt("stopped by SIGTERM")
        """
    )
    result = run("--dnn-launches", "2", "--dnn-gpu-counts", "1")
    assert result.returncode == pytest.ExitCode.INTERRUPTED
    assert "case 2 of 2, test_measured_on[single-tests.tiny_models:tiny-1gpu]: cut off" in (
        result.stdout
    )
    assert ": failed" not in result.stdout


def test_a_working_directory_that_goes_away_loses_nothing(
    made_up: None, pytester: pytest.Pytester
) -> None:
    """pytest goes back there before anything is saved, and ends in its own traceback."""
    gone = "\nimport shutil, os\ndef pytest_runtest_teardown():\n    shutil.rmtree(os.getcwd())\n"
    pytester.makeconftest(CONFTEST + gone)
    result = run("--benchmark-autosave")
    assert "dnnbench: the session did not come to its end. What was" in result.stderr
    assert kept(result.stderr) == ["single"]


SAVING = """
import os, signal

def pytest_benchmark_generate_machine_info(config):
    for _ in range(3):
        os.kill(os.getpid(), signal.{name})
    return {{"node": "here"}}
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_an_interrupt_while_results_are_saved_waits_for_them(
    made_up: None, pytester: pytest.Pytester, name: str
) -> None:
    """The first one made a traceback of a session that was complete, and no file."""
    pytester.makeconftest(CONFTEST + SAVING.format(name=name))
    result = run("--benchmark-json", "out.json", "--benchmark-storage", "saved")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "results saved" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    saved = json.loads((pytester.path / "out.json").read_text())
    assert [benchmark["params"]["framework"] for benchmark in saved["benchmarks"]] == ["single"]
    assert saved["dnnbench"]["interrupted"] is False
    assert not (pytester.path / "saved" / "dnnbench-journal.jsonl").exists()
