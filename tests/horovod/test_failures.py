"""A Horovod rank that stalls or dies fails its case in time, by name, and leaves nothing behind."""

import threading
import time

import pytest

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.horovod_rendezvous import horovod_rendezvous
from pytest_dnnbench.controller.rank_launcher import MEASURE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import RankCrashed, RankHung
from tests.horovod.test_worker import measure, request


def test_a_dead_rank_fails_its_case_at_once_and_is_named(server: ForkServer) -> None:
    start = time.monotonic()
    with pytest.raises(RankCrashed, match="rank 1 of 2 died of SIGKILL"):
        measure(server, request(2, worker="tests.horovod.workers:Dies"))
    assert time.monotonic() - start < 60, "not only after Horovod's own time-outs"


def test_a_stalled_rank_fails_its_case_at_the_time_out(server: ForkServer) -> None:
    start = time.monotonic()
    measure(server, request(2))
    patience_s = round(
        2 + 4 * (time.monotonic() - start), 1
    )  # it is to stall in a step, not on its way there
    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=patience_s)
    with pytest.raises(RankHung, match=f"did not finish within {patience_s:g} s") as caught:
        ranks.launch(
            MEASURE,
            request(2, worker="tests.horovod.workers:Stalls"),
            rendezvous=horovod_rendezvous,
        )
    assert "workers.py" in str(caught.value), "the stacks show where rank 1 sleeps"


def test_after_a_failure_the_next_case_runs_and_nothing_is_left(server: ForkServer) -> None:
    before = threading.active_count()
    with pytest.raises(RankCrashed):
        measure(server, request(2, worker="tests.horovod.workers:Dies"))
    reports = measure(server, request(2))
    assert [report.rank for report in reports] == [0, 1]
    assert threading.active_count() == before
