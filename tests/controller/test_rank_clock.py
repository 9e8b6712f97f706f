"""A rank's clock that cannot be right fails its launch, and one that is right does not."""

import math
import time
from dataclasses import replace

import pytest

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.case_run import CaseRun, prepare_run
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.machine import detect
from pytest_dnnbench.controller.rank_clock import LaunchClock, check_clocks, phases_of
from pytest_dnnbench.controller.rank_launcher import RankLauncher
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import DnnbenchError, WrongResult
from pytest_dnnbench.messages import RankReport
from pytest_dnnbench.rank_status import STAMP_S, StatusPage
from tests.patience import HANG_S

CASE = Case("mine", "m", 1, "train")


def report(before_s: float, after_s: float) -> RankReport:
    return RankReport(0, before_s, after_s, (0,), (after_s,), (8,), 8, clock_s=(before_s, after_s))


@pytest.mark.parametrize(
    ("before_s", "after_s"),
    [(math.nan, 12.0), (11.0, math.nan), (12.0, 11.0), (9.9, 11.0), (11.0, 20.1)],
)
def test_readings_outside_the_launch_are_refused(before_s: float, after_s: float) -> None:
    clock = LaunchClock(begin_s=10.0, end_s=20.0, timings_s=(1.0,))
    check_clocks(CASE, [report(11.0, 12.0)], clock)
    with pytest.raises(WrongResult, match=r"clock of rank 0 read .* the launch took 10\.000 s"):
        check_clocks(CASE, [report(before_s, after_s)], clock)


def test_a_clock_that_counts_less_than_the_kernel_is_refused_with_both_figures() -> None:
    clock = LaunchClock(begin_s=10.0, end_s=20.0, timings_s=(2.0,))
    check_clocks(CASE, [report(11.0, 13.0 - 0.9 * STAMP_S)], clock)
    with pytest.raises(WrongResult, match=r"counted 0\.250 s for .* and the kernel 2\.000 s"):
        check_clocks(CASE, [report(11.0, 11.25)], clock)


def test_the_phases_of_a_launch_are_those_of_the_rank_that_reported_last() -> None:
    clock = LaunchClock(begin_s=10.0, end_s=20.0)
    early = replace(report(0, 1), began_s=10.1, phases_s={"start": 0.2, "timed steps": 1.0})
    late = replace(report(0, 1), began_s=10.3, phases_s={"start": 0.1, "timed steps": 5.0})
    assert phases_of([early, late], clock, now_s=20.5) == pytest.approx(
        {"fork": 0.3, "start": 0.1, "timed steps": 5.0, "end": 0.5}
    )
    assert phases_of([report(0, 1)], clock, now_s=20.5) == {}


def test_phases_by_a_clock_that_reads_nonsense_stay_out_of_the_record() -> None:
    clock = LaunchClock(begin_s=10.0, end_s=20.0)
    broken = replace(report(0, 1), began_s=math.nan, phases_s={"start": -1.0, "report": math.inf})
    assert phases_of([broken], clock, now_s=21.0) == {"start": 0.0, "end": 1.0}


def test_the_kernel_notes_a_window_whatever_the_rank_stores_meanwhile() -> None:
    ours, descriptor = StatusPage.make()
    theirs = StatusPage(descriptor)
    assert ours.timing_s() == pytest.approx(0.0, abs=STAMP_S)
    begin_s = time.monotonic()
    theirs.timing_begins()
    theirs.enter("timed steps", 2)
    time.sleep(0.05)
    theirs.step(1, 8)
    theirs.timing_ended()
    took_s = time.monotonic() - begin_s
    theirs.enter("report")
    assert 0.05 - STAMP_S <= ours.timing_s() <= took_s + STAMP_S


def test_a_wall_clock_that_was_set_during_the_launch_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, wall = LaunchClock(), time.time
    clock.stop([2.0])
    assert clock.timings_s == (2.0,)
    clock = LaunchClock()
    monkeypatch.setattr(time, "time", lambda: wall() + 3600.0)
    clock.stop([3602.0])
    assert clock.timings_s == ()


def run_of(server: ForkServer, clock: str, warmup: int | str = 1) -> CaseRun:
    """A case whose model breaks this clock."""
    case = Case("single", f"tests.rank.broken_clocks:{clock}", 1, "train", batch_size=4)
    launcher = RankLauncher(Ranks(server, ["cpu"], threads=1, timeout_s=HANG_S))
    steps = 30  # of 3 ms: a clock that counts an eighth misses more than a tick
    return prepare_run(
        case, Catalog(), launcher, detect("cpu"), steps=steps, warmup=warmup, data=None
    )


@pytest.mark.parametrize(
    ("clock", "warmup", "message"),
    [
        ("nan_everywhere", 1, "the clock of rank 0 read nan s"),
        ("backwards", 1, "the clock of rank 0 read"),
        ("slowed", 1, "the clock of rank 0 counted .* and the kernel"),
        ("hurried", 1, "the clock of rank 0 read"),
        ("nan_everywhere", "auto", "counted nan s for 1 warm-up steps"),
        ("backwards", "auto", "counted -.* s for 1 warm-up steps"),
    ],
)
def test_a_model_that_breaks_the_clock_fails_its_case(
    server: ForkServer, clock: str, warmup: int | str, message: str
) -> None:
    """Such figures went into the record: -13,309 img/s, or 737% more than before."""
    run = run_of(server, clock, warmup)
    with pytest.raises(DnnbenchError, match=message):
        run.launch()
    assert not run.launches


def test_a_model_that_replaces_the_clock_in_time_changes_nothing(server: ForkServer) -> None:
    """The clock is taken before the model's code runs."""
    launch = run_of(server, "nan_in_time").launch()
    assert 0 < launch.throughput < math.inf
