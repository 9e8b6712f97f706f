"""A Horovod rank that stalls or dies fails its case in time, by name, and leaves nothing behind."""

import threading

import pytest

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.horovod_rendezvous import horovod_rendezvous
from pytest_dnnbench.controller.rank_launcher import MEASURE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import RankCrashed
from tests.horovod.test_worker import measure, request
from tests.patience import HANG_S, failure_at_hang


def test_a_dead_rank_fails_its_case_and_is_named(server: ForkServer) -> None:
    with pytest.raises(RankCrashed, match="rank 1 of 2 died of SIGKILL"):
        measure(server, request(2, worker="tests.horovod.workers:Dies"))


def test_a_stalled_rank_fails_its_case_at_the_time_out(server: ForkServer) -> None:
    stalling = request(2, worker="tests.horovod.workers:Stalls")
    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S)
    hung = failure_at_hang(
        ranks,
        lambda: ranks.launch(MEASURE, stalling, rendezvous=horovod_rendezvous),
        lambda hung: hung.rank_phase in ("warm-up", "timed steps"),
    )
    assert f"did not finish within {ranks.timeout_s:g} s" in str(hung)
    assert "workers.py" in str(hung), "the stacks show where rank 1 sleeps"


def test_after_a_failure_the_next_case_runs_and_nothing_is_left(server: ForkServer) -> None:
    before = threading.active_count()
    with pytest.raises(RankCrashed):
        measure(server, request(2, worker="tests.horovod.workers:Dies"))
    reports = measure(server, request(2))
    assert [report.rank for report in reports] == [0, 1]
    assert threading.active_count() == before
