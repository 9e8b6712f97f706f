"""The commits of a repository: which lie between two, and a checkout of each, built.

    cache/bisect/KEY/COMMIT/         a git worktree of the repository
                     COMMIT.log      what its build said
                     COMMIT.built    it is checked out and built as a whole

The user's own checkout is not touched. KEY is of the repository and of the search's file, so that
two searches do not meet.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from pytest_dnnbench.bisection.comparing import Arguments, CannotMeasure
from pytest_dnnbench.bisection.kept_search import CommitsOf
from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.files import cache_folder
from pytest_dnnbench.starting import started

_SHORT = 10
"""Letters of a commit's name that are shown."""


def repository_of(folder: str) -> str:
    """The top folder of the repository that a folder lies in. Raises UsageError."""
    try:
        return _git(folder, "rev-parse", "--show-toplevel")
    except UsageError as error:
        raise UsageError(f"--repository {folder}: {error}") from None


def commits_between(repository: str, good: str, bad: str) -> list[str]:
    """From good to bad, both included, along first parents: a merge stands for all that it brought.
    Raises UsageError where one is no commit, or good is not on that line."""
    first, last = (_commit(repository, name) for name in (good, bad))
    if first == last:
        raise UsageError(f"--good {good} and --bad {bad} are the same commit")
    try:
        _git(repository, "merge-base", "--is-ancestor", first, last)
    except UsageError:
        raise UsageError(
            f"--bad {bad} does not descend from --good {good}: give a good commit in its history,"
            f" as that of git merge-base {good} {bad}"
        ) from None
    between = _git(repository, "rev-list", "--first-parent", "--reverse", f"{first}..{last}")
    commits = between.split()
    before = _git(repository, "log", "-1", "--format=%P", commits[0]).partition(" ")[0]
    if before != first:
        raise UsageError(
            f"--good {good} came into the history of --bad {bad} by a merge, and commits between"
            f" the two lack it: give {before[:_SHORT]}, the last of their line that it has"
        )
    return [first, *commits]


def _commit(repository: str, name: str) -> str:
    try:
        return _git(repository, "rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}")
    except UsageError:
        raise UsageError(
            f"{name!r} is no commit of {repository}: give a hash, a tag or a branch that this"
            " repository has"
        ) from None


class Checkouts:
    """The commits of a search as sides of a comparison. `search_file` keeps those of two searches
    apart."""

    noun = "commit"

    def __init__(self, of: CommitsOf, search_file: Path) -> None:
        self._of = of
        key = repr((of.repository, of.build, os.path.abspath(search_file)))
        self._root = cache_folder("bisect") / hashlib.sha256(key.encode()).hexdigest()[:12]

    def label(self, commit: str) -> str:
        """The commit's short name."""
        return commit[:_SHORT]

    def title(self, commit: str) -> str:
        """Its short name and subject; of a merge also how many commits it brought."""
        subject = _git(self._of.repository, "log", "-1", "--format=%s", commit)
        brought = ""
        if " " in _git(self._of.repository, "log", "-1", "--format=%P", commit):
            count = _git(self._of.repository, "rev-list", "--count", f"{commit}^1..{commit}")
            brought = f", a merge of {counted(int(count) - 1, 'commit')}"
        return f'{self.label(commit)} "{subject}"{brought}'

    def arguments(self, earlier: str, later: str) -> Arguments:
        """pytest's, which put the two checkouts on the two sides."""
        a, b = (self._importable(commit) for commit in (earlier, later))
        named = f"{self.label(later)}={sys.executable}"
        return Arguments(
            sys.executable, ("--dnn-path", a, "--dnn-against", named, "--dnn-against-path", b)
        )

    def close(self) -> None:
        """Removes the checkouts."""
        for folder in self._root.glob("*/.git"):
            with suppress(UsageError):
                self._git("worktree", "remove", "--force", str(folder.parent))
        shutil.rmtree(self._root, ignore_errors=True)
        with suppress(UsageError):
            self._git("worktree", "prune")

    def _importable(self, commit: str) -> str:
        """The folder for `sys.path` of the commit's checkout, which is made and built unless it is
        there. Raises CannotMeasure."""
        folder = self._root / commit
        built = folder.with_name(f"{commit}.built")
        if not built.exists():
            self._check_out(commit, folder)
            self._build(commit, folder)
            built.touch()
        importable = folder / self._of.subfolder
        if not importable.is_dir():
            raise CannotMeasure(commit, f"it has no folder {self._of.subfolder}")
        return str(importable)

    def _check_out(self, commit: str, folder: Path) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        if folder.exists():  # it was interrupted
            with suppress(UsageError):
                self._git("worktree", "remove", "--force", str(folder))
            shutil.rmtree(folder, ignore_errors=True)
        # Twice --force: a worktree of this name may be registered although its folder has gone.
        self._git("worktree", "add", "--force", "--force", "--detach", str(folder), commit)

    def _build(self, commit: str, folder: Path) -> None:
        if not self._of.build:
            return
        log = folder.with_name(f"{commit}.log")
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
        with log.open("wb") as output:
            builder = started(
                lambda: subprocess.Popen(
                    ["/bin/sh", "-c", self._of.build],
                    cwd=folder,
                    env={**os.environ, "PATH": path},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
            try:
                status = builder.wait()
            finally:
                with suppress(ProcessLookupError):  # of Ctrl-C, and what a build leaves running
                    os.killpg(builder.pid, signal.SIGTERM)
                builder.wait()
        if status:
            last = log.read_text(errors="replace").strip().rpartition("\n")[2]
            raise CannotMeasure(commit, f"the build ended with status {status}: {last} (see {log})")

    def _git(self, *arguments: str) -> str:
        # A hook of the user's is for the user's checkouts.
        return _git(self._of.repository, "-c", f"core.hooksPath={os.devnull}", *arguments)


def _git(folder: str, *arguments: str) -> str:
    """What git says. Raises UsageError with its last line where it fails."""
    # These point at another repository than the folder's, in a hook of git for one.
    unset = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    variables = {name: value for name, value in os.environ.items() if name not in unset}
    if (git := shutil.which("git")) is None:
        raise UsageError("git is not installed, and commits are checked out with it")
    answer = started(
        lambda: subprocess.run(
            [git, "-C", folder, *arguments],
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    )
    if answer.returncode:
        raise UsageError(answer.stderr.strip().rpartition("\n")[2] or f"git {arguments[0]} failed")
    return answer.stdout.strip()
