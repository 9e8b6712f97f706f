"""Commits between two, and their checkouts: built, refused, removed; the user's own stays as it
is."""

import subprocess
from pathlib import Path

import pytest

from pytest_dnnbench.bisection.commits import Checkouts, commits_between, repository_of
from pytest_dnnbench.bisection.comparing import CannotMeasure
from pytest_dnnbench.bisection.kept_search import CommitsOf
from pytest_dnnbench.errors import UsageError


def git(folder: Path, *arguments: str) -> str:
    author = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    command = ["git", "-C", str(folder), *author, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder: Path, text: str) -> str:
    (folder / "module.py").write_text(text)
    git(folder, "add", ".")
    git(folder, "commit", "-qm", text)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    return folder


def test_commits_from_good_to_bad_in_their_order(repository: Path) -> None:
    names = [commit(repository, str(number)) for number in range(5)]
    top = repository_of(str(repository))
    assert commits_between(top, "HEAD~3", "main") == names[1:]
    (repository / "part").mkdir()
    assert repository_of(str(repository / "part")) == top


def test_a_merge_stands_for_all_that_it_brought(repository: Path) -> None:
    first = commit(repository, "first")
    git(repository, "checkout", "-qb", "side")
    for number in range(3):
        (repository / "other.py").write_text(str(number))
        git(repository, "add", ".")
        git(repository, "commit", "-qm", f"side {number}")
    git(repository, "checkout", "-q", "main")
    second = commit(repository, "second")
    git(repository, "merge", "-q", "--no-ff", "-m", "the merge", "side")
    merge = git(repository, "rev-parse", "HEAD")
    assert commits_between(str(repository), first, "HEAD") == [first, second, merge]
    checkouts = Checkouts(CommitsOf(str(repository)), repository / "state.json")
    assert checkouts.title(merge) == f'{merge[:10]} "the merge", a merge of 3 commits'
    assert checkouts.title(second) == f'{second[:10]} "second"'


def test_a_good_commit_that_a_merge_brought_is_refused_with_the_one_to_give(
    repository: Path,
) -> None:
    """The commits between it and the merge lack what it has: they would be called slow for that."""
    first = commit(repository, "first")
    git(repository, "checkout", "-qb", "side")
    (repository / "other.py").write_text("faster")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "side")
    git(repository, "checkout", "-q", "main")
    second = commit(repository, "second")
    git(repository, "merge", "-q", "--no-ff", "-m", "the merge", "side")
    third = commit(repository, "third")
    with pytest.raises(UsageError, match=f"--good side came .* by a merge.*: give {first[:10]},"):
        commits_between(str(repository), "side", "main")
    merge = git(repository, "rev-parse", "HEAD~1")
    assert commits_between(str(repository), first, "main") == [first, second, merge, third]
    assert commits_between(str(repository), merge, "main") == [merge, third]


def test_commits_that_cannot_be_searched_are_refused(repository: Path, tmp_path: Path) -> None:
    commit(repository, "first")
    git(repository, "checkout", "-qb", "side")
    commit(repository, "side")
    git(repository, "checkout", "-q", "main")
    commit(repository, "second")
    for good, bad, said in (
        ("nothing", "HEAD", "'nothing' is no commit of .*: give a hash, a tag or a branch"),
        ("--all", "HEAD", "'--all' is no commit"),
        ("HEAD", "main", "are the same commit"),
        ("HEAD", "HEAD~1", "does not descend from"),
        ("side", "main", "does not descend from"),
    ):
        with pytest.raises(UsageError, match=said):
            commits_between(str(repository), good, bad)
    with pytest.raises(UsageError, match="not a git repository"):
        repository_of(str(tmp_path))


def test_each_side_has_its_own_checkout_built_once(repository: Path, tmp_path: Path) -> None:
    names = [commit(repository, f"NUMBER = {number}") for number in range(2)]
    (repository / "module.py").write_text("NUMBER = 'not committed'")
    # A hook of the user's must not run in our checkouts.
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.write_text("#!/bin/sh\ntouch hooked\n")
    hook.chmod(0o755)
    build = "mkdir -p lib && cp module.py lib && echo built >> times"
    of = CommitsOf(str(repository), build, "lib")
    checkouts = Checkouts(of, tmp_path / "state.json")
    for _ in range(2):
        options = checkouts.arguments(*names).options
    a, b = Path(options[1]), Path(options[5])
    assert options[0::2] == ("--dnn-path", "--dnn-against", "--dnn-against-path")
    assert options[3].startswith(f"{names[1][:10]}=")
    assert [(each / "module.py").read_text() for each in (a, b)] == ["NUMBER = 0", "NUMBER = 1"]
    assert (a.parent / "times").read_text() == "built\n"
    assert not (a.parent / "hooked").exists()
    assert (repository / "module.py").read_text() == "NUMBER = 'not committed'"
    assert len(git(repository, "worktree", "list").splitlines()) == 3
    checkouts.close()
    assert not a.exists()
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert git(repository, "status", "--porcelain") == "M module.py"


def test_a_checkout_that_was_interrupted_is_made_again(repository: Path, tmp_path: Path) -> None:
    names = [commit(repository, f"NUMBER = {number}") for number in range(2)]
    checkouts = Checkouts(CommitsOf(str(repository)), tmp_path / "state.json")
    a = Path(checkouts.arguments(*names).options[1])
    (a / "module.py").unlink()
    a.with_name(f"{a.name}.built").unlink()
    assert (Path(checkouts.arguments(*names).options[1]) / "module.py").exists()
    checkouts.close()


@pytest.mark.parametrize(
    ("build", "subfolder", "said"),
    [
        ("echo compiling; echo no compiler; exit 3", "", "status 3: no compiler"),
        ("", "src", "it has no folder src"),
    ],
)
def test_a_commit_that_does_not_build_cannot_be_measured(
    repository: Path, tmp_path: Path, build: str, subfolder: str, said: str
) -> None:
    names = [commit(repository, f"NUMBER = {number}") for number in range(2)]
    checkouts = Checkouts(CommitsOf(str(repository), build, subfolder), tmp_path / "state.json")
    with pytest.raises(CannotMeasure, match=said) as refusal:
        checkouts.arguments(*names)
    assert refusal.value.place == names[0]
    checkouts.close()
