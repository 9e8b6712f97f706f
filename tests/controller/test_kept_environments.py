"""The environments that are kept: listed with what they are for, and removed unless in use."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_dnnbench.__main__ import main
from pytest_dnnbench.controller import kept_environments as kept

DAY_S = 86400


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where environments are kept: two whole ones, one of which is forty days old, and one that
    was never finished."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "pytest-dnnbench" / "environments"
    for name, requirements, days in (
        ("aaaa1111", ["torch==2.9.1"], 40),
        ("aaaa2222", ["numpy==1.26", "msgspec==0.18"], 1),
        ("bbbb3333.999999999", [], 50),
    ):
        made = folder / name
        (made / "bin").mkdir(parents=True)
        (made / "bin" / "python").symlink_to(sys.executable)
        (made / "weights").write_bytes(b"x" * 3 * 2**20)
        moment = time.time() - days * DAY_S
        if requirements:
            kept.write_about(made, requirements, sys.prefix)
            os.utime(made / kept.ABOUT, (moment, moment))
        os.utime(made, (moment, moment))
    return folder


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["environments", *words]) == 0
    return capsys.readouterr().out


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_list_says_what_each_is_for_its_size_and_its_last_use(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(capsys).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == [
        "aaaa2222",
        "aaaa1111",
        "bbbb3333.999999999",
    ]
    assert "24 hours ago" in lines[1]
    assert lines[1].endswith("numpy==1.26 msgspec==0.18")
    assert "3.0 MiB" in lines[2]
    assert "6 weeks ago" in lines[2]
    assert lines[3].endswith("(never finished)")
    assert lines[4] == f"3 environments, 9.0 MiB, in {folder}"


@pytest.mark.parametrize("text", ["aaaa1", "torch==2.9.1"])
def test_one_is_removed_by_its_name_or_its_requirement(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    assert shown(capsys, "--remove", text).startswith("removed aaaa1111 (torch==2.9.1), 3.0 MiB")
    assert names(folder) == {"aaaa2222", "bbbb3333.999999999"}


def test_a_whole_name_names_one_beside_what_a_removal_has_left(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "aaaa1111.removing" / "lib").mkdir(parents=True)
    assert "removed aaaa1111 " in shown(capsys, "--remove", "aaaa1111")
    assert names(folder) == {"aaaa2222", "bbbb3333.999999999"}
    (folder / "aaaa2222.removing").mkdir()
    assert "removed aaaa2222.removing " in shown(capsys, "--remove", "aaaa2222.removing")
    assert "aaaa2222" in names(folder)


def test_the_order_of_requirements_does_not_matter(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "removed aaaa2222" in shown(capsys, "--remove", "msgspec==0.18 numpy==1.26")


def test_those_that_were_not_used_for_long_are_removed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(capsys, "--unused", "60d") == "nothing to remove\n"
    kept.note_use(folder / "aaaa1111")
    shown(capsys, "--unused", "4w")
    assert names(folder) == {"aaaa1111", "aaaa2222"}, "one was used just now"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--remove", "aaaa"), "names 2 environments: choose from aaaa2222, aaaa1111"),
        (("--remove", "cccc"), "there is no such environment"),
        (("--unused", "soon"), "write hours, days or weeks, as in 12h, 30d or 4w"),
    ],
)
def test_what_names_none_or_several_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert main(["environments", *words]) == 2
    assert message in capsys.readouterr().err
    assert len(names(folder)) == 3


@pytest.fixture
def user(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs an environment's interpreter."""
    python = str(folder / "aaaa1111" / "bin" / "python")
    with subprocess.Popen([python, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_one_that_is_used_stays_and_the_others_go(
    folder: Path, user: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["environments", "--unused", "0d"]) == 2
    refusal = capsys.readouterr().err
    assert f"aaaa1111 (torch==2.9.1) is used by process {user.pid}: end that" in refusal
    assert names(folder) == {"aaaa1111"}


def test_one_that_is_being_made_stays(folder: Path) -> None:
    making = folder / f"cccc4444.{os.getpid()}"
    making.mkdir()
    assert kept.users_of(making) == [os.getpid()]
    assert kept.users_of(folder / "bbbb3333.999999999") == []


def test_nothing_is_kept_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert shown(capsys).startswith("no environments in ")


def test_a_damaged_note_can_be_listed_and_removed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "aaaa1111" / kept.ABOUT).write_text("{")
    assert "(not known)" in shown(capsys)
    assert "removed aaaa1111" in shown(capsys, "--remove", "aaaa1111")
