"""The words of live progress, the time left, and the escape sequences of a line that is
rewritten."""

from pytest_dnnbench.rank_status import RankStatus
from pytest_dnnbench.report.progress import Pace, StatusLine, status, time_left, where


def test_the_rank_that_is_behind_tells_the_phase_and_all_tell_the_rate() -> None:
    ahead = RankStatus("timed steps", 4, 8, samples=64, elapsed_s=1.0)
    behind = RankStatus("timed steps", 3, 8, samples=48, elapsed_s=2.0)
    assert where([ahead, behind]) == ["timed steps 3/8", "56 img/s"]
    assert where([ahead, RankStatus("warm-up", 1, 3)]) == ["warm-up 1/3"]
    assert where([RankStatus("build"), RankStatus("group")]) == ["group"]
    assert where([]) == ["starting ranks"]


def test_the_rate_is_in_the_unit_of_the_case() -> None:
    running = RankStatus("timed steps", 4, 8, samples=64, elapsed_s=2.0)
    assert where([running], "tok/s") == ["timed steps 4/8", "32 tok/s"]


def test_a_line_cuts_the_name_first_and_then_leaves_words_out() -> None:
    words = ["launch 1 of 3", "timed steps 3/8", "56 img/s"]
    assert (
        status("test_train[ddp]", words, 80)
        == "test_train[ddp]: launch 1 of 3, timed steps 3/8, 56 img/s"
    )
    assert status("test_train[ddp-resnet50-2gpu]", words, 60).startswith(
        "test_trai…50-2gpu]: launch"
    )
    assert status("test_train[ddp]", words, 29) == "test_tr…n[ddp]: launch 1 of 3"
    for width in range(90):
        assert len(status("test_train[ddp-resnet50-2gpu]", words, width)) <= width


def test_a_name_cannot_steer_the_terminal() -> None:
    assert status("a\x1b[2Jb", [], 40) == "a\N{REPLACEMENT CHARACTER}[2Jb"


def test_time_left_is_told_in_the_unit_that_reads_best() -> None:
    words = [time_left(seconds) for seconds in (None, 0.0, 41.2, 300.0, 7200.0)]
    assert words == [
        [],
        ["about 1 s left"],
        ["about 41 s left"],
        ["about 5 min left"],
        ["about 2.0 h left"],
    ]


def test_nothing_is_promised_before_anything_was_measured() -> None:
    pace = Pace(["a", "b"], 3)
    assert (pace.left_s, pace.of("a")) == (None, None)


def test_unmeasured_cases_are_taken_to_be_like_the_others() -> None:
    pace = Pace(["a", "b", "c"], 2)
    pace.note("a", 10.0)
    pace.note("b", 20.0)
    assert pace.left_s == 10 + 20 + 2 * 15


def test_a_case_takes_its_median_launch_once_more_for_each_launch_to_come() -> None:
    pace = Pace(["a", "b"], 5)
    for seconds in (10.0, 6.0, 7.0):
        pace.note("a", seconds)
    pace.note("b", 20.0)
    assert pace.of("a") == 7.0
    assert pace.of("b") == 20.0
    assert pace.left_s == 2 * 7 + 4 * 20


def test_cases_that_failed_or_are_skipped_take_no_more_time() -> None:
    pace = Pace(["a", "b", "c"], 3)
    pace.note("a", 10.0, over=True)
    pace.note("b", 0.0, over=True)
    assert pace.left_s == 30.0
    pace.note("elsewhere", 99.0)
    assert pace.left_s == 30.0


def test_more_launches_than_planned_are_nothing_to_wait_for() -> None:
    pace = Pace(["a"], 1)
    for _ in range(3):
        pace.note("a", 5.0)
    assert pace.left_s == 0.0


def test_a_status_line_stands_below_and_the_cursor_stays() -> None:
    written: list[str] = []
    line = StatusLine(written.append)
    line.draw("one")
    line.draw("one")
    line.draw("two")
    line.erase()
    line.erase()
    around = "\x1bD\x1b[A\x1b7\r\n{}\x1b[K\x1b8"
    assert written == [around.format("one"), around.format("two"), "\x1b[J"]
