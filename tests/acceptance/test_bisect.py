"""`dnnbench bisect` for real: a repository with a planted slowdown, commits that do not build, and
Ctrl-C in the middle.

The models sleep, so that on a busy machine a step still takes as long as it says.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.find_commit import make_repository
from tests.patience import HANG_S

MODEL = """
import time
from torch import nn

class Sleeps(nn.Module):
    def forward(self, images):
        time.sleep({seconds})
        return images

def model(channels=1, classes=10):
    return nn.Sequential(Sleeps(), nn.Flatten(), nn.Linear(784, classes))
"""
FAST, SLOW = MODEL.format(seconds=0.05), MODEL.format(seconds=0.15)
UNBUILDABLE = "syntax("
CASES = """
def test_train(framework, model, gpus, process_group, dnnbench):
    dnnbench.measure(framework, model, process_group(gpus), phase="train")
"""
OPTIONS = (
    *("test_cases.py", "-p", "no:cacheprovider", "--dnn-device", "cpu", "--gpus", "1"),
    *("--dnn-frameworks", "single", "--dnn-models", "measured:model", "--dnn-batch-size", "4"),
    *("--dnn-steps", "2", "--dnn-warmup", "1"),
)
JOURNAL = Path(".benchmarks") / "dnnbench-bisect-session" / "dnnbench-journal.jsonl"


def bisect(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "pytest_dnnbench", "bisect", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextmanager
def ended_at_last(search: "subprocess.Popen[str]") -> Iterator[None]:
    """Nothing of a search is left, whatever the test has come to."""
    try:
        yield
    finally:
        if search.poll() is None:
            search.terminate()
            search.wait(HANG_S)


def kept_launches() -> int:
    """Those of the session under way."""
    return max(len(JOURNAL.read_text().splitlines()) - 1, 0) if JOURNAL.exists() else 0


def test_the_commit_of_a_planted_slowdown_is_named_also_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first commit after good is slow, and does not build: the answer is this one or the next.
    Interrupted in its first session."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # What is slow sleeps, so that other sessions of this user need not be waited for.
    (tmp_path / "leases").mkdir(mode=0o700)
    monkeypatch.setenv("DNNBENCH_LEASE_DIR", str(tmp_path / "leases"))
    make_repository(tmp_path / "repository", [FAST, UNBUILDABLE, SLOW, SLOW])
    (tmp_path / "test_cases.py").write_text(CASES)
    search = bisect(
        *("--repository", "repository", "--good", "HEAD~3", "--bad", "HEAD"),
        *("--build", "python -m py_compile measured.py", "--launches", "8", "--"),
        *OPTIONS,
    )
    with ended_at_last(search):
        while kept_launches() < 3:
            assert search.poll() is None, search.communicate()[0]
            time.sleep(0.05)
        os.kill(search.pid, signal.SIGINT)
        said, _ = search.communicate(timeout=3 * HANG_S)
    assert search.returncode == 130, said
    assert "continue with dnnbench bisect --resume" in said
    assert kept_launches() >= 3

    search = bisect("--resume")
    with ended_at_last(search):
        said, _ = search.communicate(timeout=3 * HANG_S)
    assert search.returncode == 0, said
    lines = said.splitlines()
    assert "good " in lines[0]
    assert sum(line.count("skipped ") for line in lines) == 1
    commits = git_names(tmp_path / "repository")
    last = lines[-1]
    named = ", ".join(commit[:10] for commit in commits[1:3])
    assert last.startswith(f"the first slow commit is one of {named} ("), said
    assert "% sure): " in last
    low, high = last.rpartition(", ")[2].removesuffix("%").split(" to ")
    assert 0 < float(low) < float(high) < 100, said
    assert "could not be measured: the build ended with status 1" in said
    state = json.loads((tmp_path / ".benchmarks" / "dnnbench-bisect.json").read_text())
    assert state["ended"]
    assert not JOURNAL.exists()
    worktrees = git(tmp_path / "repository", "worktree", "list")
    assert len(worktrees.splitlines()) == 1, "the checkouts are gone"


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def git_names(folder: Path) -> list[str]:
    """All commits, oldest first."""
    return git(folder, "rev-list", "--reverse", "HEAD").split()
