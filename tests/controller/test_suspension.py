"""A machine that slept in a timed region: the launch is discarded and made again, a bounded number
of times. The clocks are the real ones, except where a test needs a sleep."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.case_run import ATTEMPTS, CaseRun, Launcher, prepare_run
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.machine import detect
from pytest_dnnbench.controller.rank_launcher import RankLauncher
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import LaunchError
from pytest_dnnbench.messages import Correctness, PredictedStep, TimedRequest
from pytest_dnnbench.rank import timed_run
from pytest_dnnbench.results.records.measurement import Launch
from tests.fake_launches import FakeLauncher
from tests.patience import HANG_S

SINGLE = "pytest_dnnbench.rank.frameworks.single:SingleWorker"


def case_run(launcher: Launcher, worker: str = SINGLE) -> CaseRun:
    case = Case("single", "tests.tiny_models:tiny", 1, "train", image_size=28, batch_size=4)
    run = prepare_run(case, Catalog(), launcher, detect("cpu"), steps=2, warmup=1, data=None)
    run.request = replace(run.request, worker=worker)
    return run


def one_rank(server: ForkServer) -> RankLauncher:
    return RankLauncher(Ranks(server, ["cpu"], threads=1, timeout_s=HANG_S))


class SleepyMachine:
    """A launcher on a machine that sleeps for these seconds, launch by launch."""

    def __init__(self, *slept_s: float) -> None:
        self.slept_s = list(slept_s)
        self._awake = FakeLauncher(confirm_from=99)

    def plan(self, request: TimedRequest) -> Any:
        return self._awake.plan(request)

    def predict(self, request: TimedRequest) -> PredictedStep | None:
        return self._awake.predict(request)

    def prove(self, request: TimedRequest) -> Sequence[Correctness]:
        return self._awake.prove(request)

    def measure(self, request: TimedRequest) -> Launch:
        launch, slept_s = self._awake.measure(request), self.slept_s.pop(0)
        reports = [replace(report, suspended_s=slept_s) for report in launch.reports]
        return replace(launch, reports=tuple(reports))

    def yardstick(self) -> float | None:
        return self._awake.yardstick()


def test_an_awake_machine_has_not_slept(server: ForkServer) -> None:
    launch = case_run(one_rank(server)).launch()
    assert launch.reports[0].suspended_s < 0.001
    assert launch.conditions.discarded_as_suspended == 0


def test_a_process_that_often_loses_its_core_has_not_slept() -> None:
    over = threading.Event()

    def compute() -> None:
        while not over.is_set():
            sum(range(10_000))

    # Threads that compute take Python's lock from the one that reads the clocks, for milliseconds.
    threads = [threading.Thread(target=compute) for _ in range(2)]
    before_s, until_s = timed_run.asleep_s(), time.monotonic() + 0.5
    largest_s = 0.0
    for thread in threads:
        thread.start()
    try:
        while time.monotonic() < until_s:
            largest_s = max(largest_s, abs(timed_run.asleep_s() - before_s))
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert largest_s < 0.001


def test_a_rank_reports_how_long_the_machine_slept(server: ForkServer) -> None:
    launcher = one_rank(server)
    run = case_run(launcher, "tests.rank.sleeping_machine:Sleeps")
    (report,) = launcher.measure(run.request).reports
    assert report.suspended_s == pytest.approx(7.0, abs=0.001)


def test_a_launch_with_a_sleep_is_made_again_and_that_is_recorded() -> None:
    run = case_run(SleepyMachine(30.0, 0.0, 0.0))
    assert run.launch().conditions.discarded_as_suspended == 1
    assert run.launch().conditions.discarded_as_suspended == 0
    assert len(run.launches) == 2


def test_a_machine_that_always_sleeps_measures_nothing() -> None:
    run = case_run(SleepyMachine(*[30.0] * ATTEMPTS))
    with pytest.raises(
        LaunchError, match=r"suspended in each of 3 launches, in the last for 30\.0 s"
    ):
        run.launch()
    assert not run.launches
