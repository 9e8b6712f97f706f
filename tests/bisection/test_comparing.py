"""One comparison: what pytest is asked, what is read of its record, what a failed or interrupted
session is."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from benchmarks.find_commit import new_search
from pytest_dnnbench.bisection import comparing
from pytest_dnnbench.bisection.comparing import (
    Arguments,
    SessionFailed,
    Sessions,
    refuse_taken,
)
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.results.records.profile_entry import WhyEntry
from pytest_dnnbench.results.records.side_by_side import OtherSide, SideEntry, SideMetric
from tests.patience import HANG_S
from tests.results.synthetic import record, save, with_metric

SLOWER = SideMetric(
    status="worse",
    a=1000.0,
    b=969.0,
    change=-0.031,
    interval=(-0.038, -0.024),
    detectable=0.012,
    pairs=12,
)


class FakeSides:
    """Sides whose pytest is a program of the test's own."""

    noun = "commit"

    def __init__(self, program: str = "") -> None:
        self.program = program

    def label(self, place: str) -> str:
        return place

    title = label

    def arguments(self, earlier: str, later: str) -> Arguments:
        return Arguments(self.program or sys.executable, ("--dnn-against-path", later))

    def close(self) -> None:
        pass


def fake_pytest(folder: Path, body: str) -> str:
    """An interpreter that runs this instead of pytest; it has the command's words in `words`."""
    path = folder / "python"
    text = textwrap.dedent(body)
    begin = f"#!{sys.executable}\nimport json, os, signal, sys, time\nwords = sys.argv\n"
    path.write_text(begin + text)
    path.chmod(0o755)
    return str(path)


def words_of(folder: Path) -> list[str]:
    words: list[str] = json.loads((folder / "words.json").read_text())
    return words


SAVING = """
json.dump(words, open({words!r}, "w"))
open(words[words.index("--benchmark-json") + 1], "w").write(open({saved!r}).read())
print("1 failed")
sys.exit(1)
"""


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A session of three cases: one measured, one whose side B failed, one without a side B."""
    side = SideEntry(name="B", python="python")
    both = with_metric(record(), "throughput", [1000.0, 1010.0, 990.0])
    both.against = OtherSide(
        side=side,
        per_launch={"throughput": [970.0, 1010.0, 1000.0]},
        compared={"throughput": SLOWER},
        why=WhyEntry(rank=0, baseline_s=0.064, now_s=0.066),
    )
    failing = record()
    failing.against = OtherSide(side=side, failure="RankRaised: rank 0 raised:\nValueError: no")
    records = {"t.py::both": both, "t.py::failing": failing, "t.py::alone": record()}
    return save(tmp_path / "saved.json", records)


def test_pytest_is_asked_for_the_two_sides_and_its_record_gives_the_pairs(
    tmp_path: Path, saved: Path
) -> None:
    body = SAVING.format(words=str(tmp_path / "words.json"), saved=str(saved))
    sessions = Sessions(FakeSides(fake_pytest(tmp_path, body)), tmp_path / "session")
    search = new_search(4)
    search.arguments, search.folder = ["bench_cases", "-k", "resnet18"], str(tmp_path)
    search.others, search.smallest = ["t.py::other"], 0.01
    result = sessions.compare(search, ("1", "2"), 12, resume=True)
    expected = [math.log(b / a) for a, b in ((1000, 970), (1010, 1010), (990, 1000))]
    assert result.logs == {"t.py::both": pytest.approx(expected)}
    assert result.judged == {"t.py::both": SLOWER}
    assert result.why == {
        "t.py::both": [
            "why: a profiled step of rank 0 takes 2 ms more with it (64 ms to 66 ms); no part of it"
            " stands out from the spread of the launches"
        ]
    }
    assert result.failures == {"t.py::failing": "ValueError: no"}
    words = words_of(tmp_path)
    assert words[1:6] == ["-m", "pytest", "bench_cases", "-k", "resnet18"]
    asked = " ".join(words)
    for option in (
        "--dnn-against-path 2",
        "--dnn-launches 12",
        "--dnn-false-alarms 0.01",
        "--deselect t.py::other",
        "--dnn-against-limits step_time_s=off,allocated_peak_bytes=off,cached_peak_bytes=off,"
        "resident_peak_bytes=off,throughput=-1%",
        f"--benchmark-storage file://{tmp_path / 'session'}",
        "--dnn-resume",
    ):
        assert option in asked
    assert "1 failed" in sessions.log.read_text()


def test_another_metric_has_no_limit_of_its_own_unless_one_is_asked_for(
    tmp_path: Path, saved: Path
) -> None:
    body = SAVING.format(words=str(tmp_path / "words.json"), saved=str(saved))
    sessions = Sessions(FakeSides(fake_pytest(tmp_path, body)), tmp_path / "session")
    search = new_search(4)
    search.folder, search.metric = str(tmp_path), "resident_peak_bytes"
    result = sessions.compare(search, ("1", "2"), 8, resume=False)
    assert result.logs == {}
    assert "throughput" in result.metrics
    asked = " ".join(words_of(tmp_path))
    limits = "throughput=off,step_time_s=off,allocated_peak_bytes=off,cached_peak_bytes=off"
    assert f"--dnn-against-limits {limits} " in f"{asked} "
    assert "--dnn-resume" not in asked


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("print('ERROR: no module named x'); sys.exit(4)", "status 4: ERROR: no module named x"),
        ("sys.exit(3)", "status 3: it said nothing"),
        ("open(words[words.index('--benchmark-json') + 1], 'w').write('{}')", "session.json: "),
    ],
)
def test_a_session_without_a_record_says_its_last_words(
    tmp_path: Path, body: str, said: str
) -> None:
    sessions = Sessions(FakeSides(fake_pytest(tmp_path, body)), tmp_path / "session")
    search = new_search(4)
    search.folder = str(tmp_path)
    with pytest.raises(SessionFailed, match=said):
        sessions.compare(search, ("1", "2"), 8, resume=False)


def test_output_that_was_shown_is_not_said_again(tmp_path: Path) -> None:
    program = fake_pytest(tmp_path, "print('shown'); sys.exit(4)")
    sessions = Sessions(FakeSides(program), tmp_path / "session", shown=True)
    search = new_search(4)
    search.folder = str(tmp_path)
    with pytest.raises(SessionFailed, match="status 4: see its output above"):
        sessions.compare(search, ("1", "2"), 8, resume=False)


def test_a_signal_that_comes_before_the_session_is_there_ends_it(tmp_path: Path) -> None:
    started = tmp_path / "started"
    program = fake_pytest(tmp_path, f"open({str(started)!r}, 'w'); time.sleep(3600)")
    sessions: list[subprocess.Popen[bytes]] = []

    def interrupted() -> None:
        with comparing._passed_on() as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            sessions.append(subprocess.Popen([program], process_group=0))
            signals.wait(sessions[0])

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sessions[0].returncode == -signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_session_once_and_waits_for_what_it_saves(
    tmp_path: Path, number: signal.Signals
) -> None:
    program = fake_pytest(
        tmp_path,
        f"""
        def save(number, frame):
            time.sleep(0.5)
            print("saved after", number, flush=True)
            sys.exit(2)
        signal.signal(signal.SIGINT, save)
        signal.signal(signal.SIGTERM, save)
        open({str(tmp_path / "started")!r}, "w")
        time.sleep(3600)
        """,
    )
    script = (
        "from pathlib import Path\n"
        "from benchmarks.find_commit import new_search\n"
        "from pytest_dnnbench.bisection.comparing import Sessions\n"
        "from tests.bisection.test_comparing import FakeSides\n"
        f"sessions = Sessions(FakeSides({program!r}), Path({str(tmp_path / 'session')!r}))\n"
        "try:\n"
        "    sessions.compare(new_search(2), ('1', '2'), 8, resume=False)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', sessions.log.read_text())\n"
    )
    searching = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "started").exists():
        assert searching.poll() is None
        time.sleep(0.02)
    os.kill(searching.pid, number)
    said, _ = searching.communicate(timeout=HANG_S)
    assert said.split() == ["interrupted", "saved", "after", str(int(number))]


@pytest.mark.parametrize(
    "argument", ["--dnn-launches=5", "--benchmark-json", "--dnn-against-path=x", "--dnn-path"]
)
def test_what_a_search_decides_itself_is_refused(argument: str) -> None:
    with pytest.raises(UsageError, match=r"a search gives this to pytest itself"):
        refuse_taken(["bench_cases", argument])
    with pytest.raises(UsageError, match=r"which cases\?"):
        refuse_taken([])
    refuse_taken(["bench_cases", "-k", "resnet18", "--dnn-steps=3"])
