"""`dnnbench bisect` as a user calls it: what is refused, what is said, and that no search is lost.
A whole search is in tests/acceptance/test_bisect.py."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.find_commit import make_repository, new_search
from pytest_dnnbench.__main__ import main
from pytest_dnnbench.bisection import command
from pytest_dnnbench.bisection.command import STATE
from pytest_dnnbench.bisection.comparing import CannotMeasure, SessionPairs, Sessions
from pytest_dnnbench.bisection.kept_search import Search, keep_search, read_search
from pytest_dnnbench.bisection.search import run_search
from pytest_dnnbench.errors import DataError, UsageError
from tests.bisection.test_search import Machine

COMMITS = ("--good", "HEAD~4", "--bad", "HEAD")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of six commits, in which the command runs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_repository(tmp_path / "repository", [""] * 6)
    monkeypatch.chdir(tmp_path / "repository")
    return tmp_path / "repository"


def simulated(monkeypatch: pytest.MonkeyPatch, machine: Machine, stop_at: int = 99) -> None:
    """Lets sessions be those of a machine that is given, and Ctrl-C come in one of them."""

    def compare(
        self: Any, search: Search, places: tuple[str, str], rounds: int, *, resume: bool
    ) -> SessionPairs:
        if len(machine.asked) == stop_at:
            raise KeyboardInterrupt
        numbers = [str(search.places.index(place)) for place in places]
        try:
            return machine.compare(search, (numbers[0], numbers[1]), rounds, resume=resume)
        except CannotMeasure as refusal:
            raise CannotMeasure(search.places[int(refusal.place)], refusal.why) from None

    monkeypatch.setattr(Sessions, "compare", compare)


def test_a_search_says_what_it_does_and_names_the_commit(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulated(monkeypatch, Machine({"slow": {3: -0.031}, "alike": {}}))
    assert main(["bisect", *COMMITS, "--", "bench_cases"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith('"commit 5", 3 commits between them')
    assert '"commit 1"' in lines[0]
    assert "is 3.1% slower than" in lines[1]
    assert lines[1].endswith(
        "in 1 of 2 cases, which alone are launched from here on; 4 commits left"
    )
    assert '"commit 4" (' in lines[-1]
    assert lines[-1].startswith("the first slow commit is ")
    assert lines[-3:-1] == ["why: 2 to 3", "  more of it"], "of the direct comparison"
    assert "% sure): 3.1% slower, " in lines[-1]
    assert read_search(STATE).ended
    # An ended search is in nobody's way, and cannot go on.
    assert main(["bisect", "--resume"]) == 2
    assert "at its end" in capsys.readouterr().err
    assert main(["bisect", *COMMITS, "--", "bench_cases"]) == 0


def test_another_metric_is_named_in_the_sentences(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulated(monkeypatch, Machine({"case": {3: +0.05}}))
    options = ("--metric", "resident_peak_bytes")
    assert main(["bisect", *COMMITS, *options, "--", "bench_cases"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "1: resident_peak_bytes of " in lines[1]
    assert " is 5.0% higher than that of " in lines[1]
    assert lines[-1].startswith("the first commit with a higher resident_peak_bytes is ")
    assert " sure): resident_peak_bytes 5.0% higher, " in lines[-1]


def test_no_difference_is_said_with_what_would_have_been_seen(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulated(monkeypatch, Machine({"case": {}}))
    assert main(["bisect", *COMMITS, "--", "bench_cases"]) == 1
    said = capsys.readouterr().out
    assert "no difference in throughput between" in said
    assert "a change of 2.0% would have been seen in 8 pairs" in said
    assert read_search(STATE).ended


def test_ctrl_c_keeps_the_search_which_goes_on_and_is_not_overwritten(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulated(monkeypatch, Machine({"case": {2: -0.05}}), stop_at=2)
    assert main(["bisect", *COMMITS, "--", "bench_cases", "-k", "resnet18"]) == 130
    assert "continue with dnnbench bisect --resume" in capsys.readouterr().err
    assert main(["bisect", *COMMITS, "--", "bench_cases"]) == 2
    assert "--restart" in capsys.readouterr().err
    machine = Machine({"case": {2: -0.05}})
    simulated(monkeypatch, machine)
    assert main(["bisect", "--resume"]) == 0
    assert '"commit 3" (' in capsys.readouterr().out.splitlines()[-1]
    assert machine.asked[0][3], "the interrupted session is continued"
    assert read_search(STATE).arguments == ["bench_cases", "-k", "resnet18"]


def test_a_search_that_is_given_up_makes_way(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated(monkeypatch, Machine({"case": {2: -0.05}}), stop_at=1)
    assert main(["bisect", *COMMITS, "--", "bench_cases"]) == 130
    simulated(monkeypatch, Machine({"case": {2: -0.05}}))
    assert main(["bisect", *COMMITS, "--restart", "--", "bench_cases"]) == 0


def test_a_damaged_search_can_be_given_up(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulated(monkeypatch, Machine({"case": {2: -0.05}}))
    STATE.parent.mkdir()
    STATE.write_text("{")
    assert main(["bisect", *COMMITS, "--", "bench_cases"]) == 2
    assert "holds no search that can be continued" in capsys.readouterr().err
    assert main(["bisect", *COMMITS, "--restart", "--", "bench_cases"]) == 0


def test_an_unsettled_search_names_who_it_may_be_and_goes_on(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulated(monkeypatch, Machine({"case": {2: -0.05}}))
    options = ("--most-sessions", "1")
    assert main(["bisect", *COMMITS, *options, "--", "bench_cases"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("not settled after 1 session: the first slow commit is one of ")
    assert last.count("(25%)") == 4
    assert main(["bisect", "--resume", "--most-sessions", "20"]) == 0


def test_a_skipped_commit_is_said_and_tried_again_when_asked(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulated(monkeypatch, Machine({"case": {2: -0.05}}, broken={2: "no build"}))
    assert main(["bisect", *COMMITS, "--most-sessions", "3", "--", "bench_cases"]) in (0, 1)
    said = capsys.readouterr().out
    assert ": no build" in said
    assert "skipped " in said
    search = read_search(STATE)
    assert search.unmeasurable == {2: "no build"}
    search.ended = False
    keep_search(STATE, search)
    simulated(monkeypatch, Machine({"case": {2: -0.05}}))
    options = ("--retry-skipped", "--most-sessions", "20")
    assert main(["bisect", "--resume", *options]) == 0
    assert '"commit 3" (' in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--good", "HEAD~1", "--bad", "HEAD"], "which cases? Write pytest's arguments after --"),
        (["--good", "HEAD~1", "--", "x"], "which commits? Give --good REV and --bad REV"),
        (["--package", "torch", "--", "x"], "which versions?"),
        (["--versions", "1,2", "--", "x"], "name it with --package"),
        (["--package", "a", "--build", "make", "--versions", "1,2", "--", "x"], "one of the two"),
        (["--package", "a", "--versions", "1", "--", "x"], "are the same version"),
        (["--repository", "/", "--good", "a", "--bad", "b", "--", "x"], "--repository /: "),
        ([*COMMITS, "--metric", "speed", "--", "x"], "--metric speed: choose from throughput"),
        ([*COMMITS, "--metric", "bus_bandwidth", "--", "x"], "as in --smallest 3%"),
        (
            [*COMMITS, "--metric", "speedup", "--smallest", "3%", "--", "x"],
            "--metric speedup cannot be searched for: it is divided by `single` of the session",
        ),
        (
            [*COMMITS, "--metric", "yardstick_s", "--smallest", "3%", "--", "x"],
            "it is the speed of the machine, which both sides share",
        ),
        (["--resume"], "there is no search to continue"),
        (["--resume", "--", "x"], "leave the rest out"),
        (["--resume", "--build", "make"], "leave the rest out"),
        (["--resume", "--launches", "20"], "leave the rest out"),
        (["--resume", "--restart"], "leave the rest out"),
        ([*COMMITS, "--retry-skipped", "--", "x"], "give --resume too"),
        (["--package", "a", "--versions", ",", "--", "x"], "--versions names none"),
        ([*COMMITS, "--state", "/dev/null/x.json", "--", "x"], "cannot be written"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_a_line(
    here: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bisect", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("dnnbench bisect: ")
    assert said in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["--error", "60%"], ["--error", "x"], ["--smallest", "0"], ["--launches", "5"]]
)
def test_bad_values_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bisect", *COMMITS, *arguments, "--", "x"])
    assert arguments[1] in capsys.readouterr().err


def test_two_processes_do_not_write_one_search(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with command._alone(STATE):
        assert main(["bisect", *COMMITS, "--", "x"]) == 2
    assert "another process is at work" in capsys.readouterr().err


def _without_good(search: dict[str, Any]) -> None:
    search["places"] = ["a"]


def _beyond_the_end(search: dict[str, Any]) -> None:
    search["comparisons"][0]["later"] = 99


def _one_pair(search: dict[str, Any]) -> None:
    search["comparisons"][0]["logs"]["case"] = [0.1]


def _no_weight(search: dict[str, Any]) -> None:
    search["cases"]["case"] = 0.0


def _huge(search: dict[str, Any]) -> None:
    search["comparisons"][0]["logs"]["case"][0] = 1e300


def _heavy(search: dict[str, Any]) -> None:
    search["cases"]["case"] = 1e300


def _newer(search: dict[str, Any]) -> None:
    search["schema"] = 2


def _skips_good(search: dict[str, Any]) -> None:
    search["unmeasurable"] = {"0": "x"}


def _no_comparison(search: dict[str, Any]) -> None:
    search["comparisons"] = []


@pytest.mark.parametrize(
    "damage",
    [
        *(_without_good, _beyond_the_end, _one_pair, _no_weight, _newer, _skips_good),
        *(_no_comparison, _huge, _heavy),
    ],
)
def test_a_damaged_search_is_refused_with_its_place(
    tmp_path: Path, damage: Callable[[dict[str, Any]], None]
) -> None:
    search, path = new_search(4), tmp_path / "search.json"
    machine = Machine({"case": {2: -0.05}})
    run_search(search, machine.compare, lambda: None, lambda _: None)
    keep_search(path, search)
    assert msgspec.structs.asdict(read_search(path)) == msgspec.structs.asdict(search)
    raw = json.loads(path.read_text())
    damage(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(DataError, match=str(path)):
        read_search(path)
    path.write_text(path.read_text()[:-40])
    with pytest.raises(UsageError, match=str(path)):
        read_search(path)
