"""A machine that slept in a timed region: the launch is discarded and made again, a bounded number
of times."""

import time
from dataclasses import replace
from typing import Any

import pytest

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.case_run import ATTEMPTS, MEASURE, CaseRun, prepare_run
from pytest_dnnbench.controller.devices import detect
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import LaunchError
from pytest_dnnbench.rank import timed_run


def case_run(
    server: ForkServer, worker: str = "pytest_dnnbench.rank.frameworks.single:SingleWorker"
) -> CaseRun:
    case = Case("single", "tests.tiny_models:tiny", 1, "train", image_size=28, batch_size=4)
    ranks = Ranks(server, ["cpu"], threads=1, timeout_s=60)
    run = prepare_run(case, Catalog(), ranks, detect("cpu"), steps=2, warmup=1, data=None)
    run.request = replace(run.request, worker=worker)
    run.correctness = {"checked": []}
    return run


def test_an_awake_machine_has_not_slept(server: ForkServer) -> None:
    assert case_run(server).launch().reports[0].suspended_s < 0.001
    assert timed_run.asleep_s() >= -0.001


def test_a_process_that_loses_its_core_between_two_readings_has_not_slept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, lost = 100.0, iter([0.0, 3.0, 0.0, 2.0] + [0.0] * 11)

    def read(clock: int) -> float:
        nonlocal now
        now += 1e-6 + next(lost)
        return now + (50.0 if clock == time.CLOCK_BOOTTIME else 0.0)

    monkeypatch.setattr(time, "clock_gettime", read)
    assert timed_run.asleep_s() == pytest.approx(50.0, abs=1e-4)


def test_a_rank_tells_how_long_the_machine_slept(server: ForkServer) -> None:
    run = case_run(server, "tests.rank.sleeping_machine:Sleeps")
    (report,) = run.ranks.launch(MEASURE, run.request)
    assert report.suspended_s == pytest.approx(7.0, abs=0.001)


def slept(run: CaseRun, monkeypatch: pytest.MonkeyPatch, seconds: list[float]) -> None:
    """The machine sleeps so long in each launch of the run."""
    launch, left = run.ranks.launch, iter(seconds)

    def sleepy(target: str, *arguments: Any, **more: Any) -> list[Any]:
        return [
            replace(report, suspended_s=next(left)) for report in launch(target, *arguments, **more)
        ]

    monkeypatch.setattr(run.ranks, "launch", sleepy)


def test_a_launch_with_a_sleep_is_made_again_and_that_recorded(
    server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = case_run(server)
    slept(run, monkeypatch, [30.0, 0.0])
    assert run.launch().conditions["discarded_as_suspended"] == 1
    assert len(run.launches) == 1


def test_a_machine_that_always_sleeps_is_no_place_to_measure(
    server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = case_run(server)
    slept(run, monkeypatch, [30.0] * ATTEMPTS)
    with pytest.raises(
        LaunchError, match=r"suspended in each of 3 launches, in the last for 30\.0 s"
    ):
        run.launch()
    assert not run.launches
