"""The timed window: every rank opens it once, whatever share of the warm-up is its own."""

import time

import pytest

from pytest_dnnbench.case import Case
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import RunRequest


@pytest.mark.parametrize(
    ("warmup", "run_on"), [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (3, 3), (4, 5)]
)
def test_ranks_that_take_turns_time_their_steps_and_no_others(
    server: ForkServer, warmup: int, run_on: int
) -> None:
    request = RunRequest(
        Case("turns", "m", 3, "train", options={"run_on": run_on}),
        "tests.rank.turn_taking:TakesTurns",
        "m",
        steps=6,
        warmup=warmup,
    )
    begin_s = time.monotonic()
    reports = Ranks(server, ["cpu"] * 3, threads=1, timeout_s=60).launch(MEASURE, request)
    assert sorted(index for report in reports for index in report.step_index) == list(range(6))
    for report in reports:
        assert begin_s < report.window_start_s < report.step_end_s[0]
        assert list(report.step_end_s) == sorted(report.step_end_s)
        began_s = report.details["began_s"]
        assert isinstance(began_s, list)
        after = min(begin for begin in began_s if begin >= report.step_end_s[-1])
        assert report.step_end_s[-1] <= report.window_end_s <= after, (
            "no part of a further step is timed"
        )
        assert len(report.step_end_s) == len(report.step_index) == 2
