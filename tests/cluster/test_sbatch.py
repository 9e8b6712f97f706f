"""The batch script: what it asks of Slurm, and what it does when the job ends or is requeued."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_dnnbench.batch.command import main
from pytest_dnnbench.errors import UsageError
from tests.patience import HANG_S

STOPPED = (
    "import sys, time, signal; signal.signal(15, lambda *_: sys.exit(2)); {}; time.sleep(3600)"
)
LAUNCH = (
    "from pytest_dnnbench.controller.slurm import PROGRESS_FILE, tell_the_script;"
    " tell_the_script(PROGRESS_FILE, 'a case')"
)
"""What a session does when it has put a launch into its journal."""


def written(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_the_script_asks_for_nodes_a_notice_and_requeueing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = written(
        capsys, "-N", "4", "--directive=--gpus-per-node=4", "--", "pytest", "a b", "--gpus", "16"
    )
    for line in ("--nodes=4", "--requeue", "--signal=B:TERM@120", "--gpus-per-node=4"):
        assert f"\n#SBATCH {line}\n" in script
    assert f"{sys.executable} -m pytest 'a b' --gpus 16" in script


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-N", "2"], "no command: write it after --"),
        (["--", "ls"], "'ls' is no pytest"),
        (["-N", "0", "--", "pytest"], "--nodes is 0"),
        (["--directive=a\nb", "--", "pytest"], "no option of sbatch"),
        (["-o", "there", "--", "pytest"], "there exists already"),
    ],
)
def test_what_cannot_be_is_refused(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").touch()
    with pytest.raises(UsageError, match=message):
        main(arguments)


@pytest.mark.parametrize(("restarts", "resumes"), [("0", []), ("1", ["--dnn-resume"])])
def test_a_requeued_job_continues_the_session(
    restarts: str, resumes: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    say = "import sys; print(sys.argv[1:]); sys.exit(3)"
    script = written(capsys, "--", sys.executable, "-c", say, "pytest")
    done = run(script, tmp_path, SLURM_RESTART_COUNT=restarts)
    assert (done.returncode, done.stdout.strip()) == (3, str(["pytest", *resumes]))


@pytest.mark.parametrize(
    ("made", "asked"), [(LAUNCH, "asked: requeue 77"), ("pass", "")], ids=["a launch", "none"]
)
def test_a_session_that_is_stopped_before_its_end_is_requeued_if_it_made_a_launch(
    made: str, asked: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A job whose time was too short for a launch was requeued without end."""
    script = written(capsys, "--", sys.executable, "-c", STOPPED.format(made), "pytest")
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho "asked: $*"\n')
    (tmp_path / "scontrol").chmod(0o700)
    notice = script.replace(
        "wait $session\nstatus", "(sleep 3; kill -TERM $$) & wait $session\nstatus"
    )
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = run(notice, tmp_path, SLURM_JOB_ID="77", PATH=path)
    assert (done.returncode, done.stdout.strip()) == (2, asked)
    assert ("no launch ended in the time of this job" in done.stderr) == (not asked)


@pytest.mark.parametrize(
    ("ends", "asked"),
    [
        ("from pytest_dnnbench.session.nodes import stopping;"
         " stopping(print, for_time=True)('no time')", "asked: requeue 77"),
        ("from pytest_dnnbench.session.nodes import stopping;"
         " stopping(print)('node n1 was told to end')", ""),
        ("sys.exit(2)", ""),
    ],
    ids=["for want of time", "by scancel", "by itself, as for a broken test"],
)  # fmt: skip
def test_a_session_that_stops_for_want_of_time_is_requeued_and_others_are_not(
    ends: str, asked: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The session had stopped by itself, with launches left, and its job ended for good."""
    code = f"import sys, signal; signal.signal(15, lambda *_: sys.exit(2)); {LAUNCH}; {ends}"
    script = written(capsys, "--", sys.executable, "-c", code, "pytest")
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho "asked: $*"\n')
    (tmp_path / "scontrol").chmod(0o700)
    (tmp_path / "temporary").mkdir()
    path, folder = f"{tmp_path}:{os.environ['PATH']}", str(tmp_path / "temporary")
    done = run(script, tmp_path, SLURM_JOB_ID="77", PATH=path, TMPDIR=folder)
    assert done.returncode == 2, done.stderr
    assert [line for line in done.stdout.splitlines() if "asked" in line] == [asked] * bool(asked)
    assert os.listdir(folder) == []


def run(script: str, folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
