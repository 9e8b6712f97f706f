"""Live progress as a user sees it: in a terminal, in a pipe, and where it must be silent."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from pytest_dnnbench.session.progress import shows
from tests.fake_launches import CONFTEST

CASES = """
def test_train(framework, model, gpus, process_group, dnnbench):
    print("said by the test")
    dnnbench.measure(framework, model, process_group(gpus), phase="train")
"""
TINY = (
    "-p", "no:cacheprovider", "--dnn-device", "cpu", "--dnn-models", "tests.tiny_models:tiny",
    "--dnn-batch-size", "8",
    "--dnn-steps", "3", "--dnn-warmup", "1", "--dnn-frameworks", "single", "--dnn-launches", "2",
)  # fmt: skip
LEFT = r"about [\d.]+ (s|min|h) left"
LINE = r"\r\ntest_\S+: launch {} of 2, "


@pytest.fixture
def command(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One case, two launches."""
    pytester.makepyfile(test_cases=CASES)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    monkeypatch.setenv("TERM", "xterm")
    for name in ("COLUMNS", "PY_COLORS", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return [sys.executable, "-m", "pytest", *TINY]


def in_terminal(command: list[str], columns: int = 120) -> str:
    """What the command writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        written = bytearray()
        try:
            while chunk := os.read(ours, 1 << 16):
                written += chunk
        except OSError:  # how Linux says that the other end is closed
            pass
        os.close(ours)
    assert process.returncode == 0, written.decode()
    return written.decode()


class Screen:
    """As much of a terminal as the status line needs: what stands on it at the end."""

    def __init__(self, written: str) -> None:
        self.lines, self.row, self.column = [""], 0, 0
        self.saved = (0, 0)
        for piece in re.findall(r"\x1b\[[\d;]*[A-Za-z]|\x1b[D78]|[^\x1b]", written):
            self._obey(piece)

    def _obey(self, piece: str) -> None:
        if piece in ("\n", "\x1bD"):
            self.row += 1
            self.lines += [""] * (self.row + 1 - len(self.lines))
        elif piece == "\r":
            self.column = 0
        elif not piece.startswith("\x1b"):
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + piece + line[self.column + 1 :]
            self.column += 1
        elif piece.endswith("A"):
            self.row -= 1
        elif piece == "\x1b7":
            self.saved = (self.row, self.column)
        elif piece == "\x1b8":
            self.row, self.column = self.saved
        elif piece.endswith(("K", "J")):
            self.lines[self.row] = self.lines[self.row][: self.column]
            if piece.endswith("J"):
                del self.lines[self.row + 1 :]


@pytest.mark.parametrize("options", [("-v", "--color=no"), ("-s",)], ids=" ".join)
def test_a_terminal_has_a_status_line_that_leaves_nothing_behind(
    command: list[str], options: tuple[str, ...]
) -> None:
    columns = 75
    written = in_terminal([*command, *options], columns)
    for launch in (1, 2):
        assert re.search(LINE.format(launch) + "starting ranks", written)
    assert re.search(LINE.format(2) + r"[^\r]*" + LEFT, written)
    assert max(map(len, re.findall(r"\r\n([^\r\n]*)\x1b\[K", written))) < columns
    shown = Screen(written).lines
    assert not [line for line in shown if "launch 1 of 2" in line or "launch 2 of 2" in line]
    assert [
        line for line in shown if re.fullmatch(r"(\.|test_cases.py::.* PASSED) +\[100%\]|\.", line)
    ], shown
    assert any("1 passed" in line for line in shown)
    if "--color=no" in options:
        assert not re.search(r"\x1b\[\d*m", written)


def test_a_pipe_gets_a_plain_line_per_early_launch_and_no_control_characters(
    command: list[str], pytester: pytest.Pytester
) -> None:
    models = ("--dnn-models", "tests.tiny_models:Diverging,tests.tiny_models:tiny")
    answer = pytester.run(*command, *models, "--dnn-warmup", "6")
    assert answer.ret == pytest.ExitCode.TESTS_FAILED
    written = answer.stdout.str()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", written)
    lines = re.findall(
        r"dnnbench: case \d of 2, test_train\[single-tests.tiny_models:(.*)-1gpu\]: (.*)\n", written
    )
    assert [name for name, _ in lines] == ["Diverging", "tiny"]
    assert re.fullmatch(r"failed, " + LEFT, lines[0][1])
    assert re.fullmatch(r"[\d,.]+ img/s, " + LEFT, lines[1][1])


@pytest.mark.parametrize(
    ("choice", "status_line", "plain_lines"),
    [("auto", (-1, 2), (0, 2)), ("on", (-3, 2), (-3, 2)), ("off", (9, 9), (9, 9))],
)
def test_the_option_and_quietness_decide(
    choice: str, status_line: tuple[int, int], plain_lines: tuple[int, int]
) -> None:
    for rewrites, (low, high) in ((True, status_line), (False, plain_lines)):
        assert [shows(choice, rewrites, verbosity) for verbosity in range(-3, 3)] == [
            low <= verbosity <= high for verbosity in range(-3, 3)
        ]


@pytest.mark.parametrize("options", [("-p", "no:terminal"), ("-n", "1")], ids=" ".join)
def test_progress_is_silent_where_there_is_no_terminal_reporter(
    command: list[str], options: tuple[str, ...], pytester: pytest.Pytester
) -> None:
    """The launches are made up: the lines are of sessions, not of ranks."""
    pytester.makeconftest(CONFTEST)
    answer = subprocess.run([*command, *options], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "dnnbench: case" not in answer.stdout


def test_a_terminal_without_progress_is_left_alone(command: list[str]) -> None:
    written = in_terminal([*command, "--dnn-progress", "off", "--color=no"])
    assert "starting ranks" not in written
    assert "dnnbench: case" not in written
