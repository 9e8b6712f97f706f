"""The work of a rank alone: the arithmetic on a clock that a test sets, and real ranks of which one
is late."""

from collections.abc import Mapping

import pytest

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.horovod_rendezvous import horovod_rendezvous
from pytest_dnnbench.controller.rank_launcher import MEASURE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import RunRequest
from pytest_dnnbench.rank.own_work import OwnWork
from pytest_dnnbench.results.records.measurement import Launch
from pytest_dnnbench.results.verdicts.straggler import LaunchTimes, straggler
from tests.patience import HANG_S
from tests.set_stopwatch import SetStopwatch

TINY = "tests.tiny_models:tiny"
DDP, HOROVOD = "tests.rank.planted_workers:LateDdp", "tests.horovod.workers:LateHorovod"
LATE_S = 0.1
STEPS = 5
MOST_TRIES = 6
"""Where the other rank loses its core in one of its few steps, no rank is slow throughout."""


def test_only_stretches_alone_count_and_those_before_the_restart_and_of_the_first_step_do_not() -> (
    None
):
    ticks = SetStopwatch()
    own_work = OwnWork(ticks)

    def take(seconds: float) -> None:
        ticks.now += seconds

    own_work.alone()
    take(100.0)
    own_work.together()
    own_work.restart()
    for update, buffers, forward in ((1.0, 10.0, 2.0), (3.0, 20.0, 4.0), (5.0, 30.0, 6.0)):
        own_work.alone()  # the forward pass begins
        own_work.together()
        take(buffers)
        own_work.alone()
        take(forward)
        own_work.together()
        take(1000.0)  # backward and exchange
        own_work.alone()
        take(update)
        own_work.step_done()
    assert own_work.seconds() == (1.0 + 4.0, 3.0 + 6.0)


def test_a_worker_without_marks_reports_nothing() -> None:
    own_work = OwnWork(SetStopwatch())
    own_work.restart()
    own_work.alone()
    own_work.step_done()
    own_work.step_done()
    assert own_work.seconds() == ()


def _launch(
    server: ForkServer,
    worker: str,
    options: Mapping[str, Scalar],
    phase: str = "train",
    gpus: int = 2,
) -> Launch:
    case = Case(
        "late",
        TINY,
        gpus,
        phase,
        batch_size=4,
        options={"late_rank": 1, "late_s": LATE_S, **options},
    )
    request = RunRequest(case, worker, TINY, steps=STEPS, warmup=1)
    rendezvous = horovod_rendezvous if worker == HOROVOD else None
    reports = Ranks(server, ["cpu"] * gpus, threads=1, timeout_s=HANG_S).launch(
        MEASURE, request, rendezvous=rendezvous
    )
    return Launch(tuple(reports))


@pytest.mark.parametrize(
    ("worker", "rank", "options"),
    [
        (DDP, 0, {}),  # the rank whose buffers the others wait for
        (DDP, 1, {}),
        (HOROVOD, 0, {}),
        (HOROVOD, 1, {"backward_passes_per_step": 2}),
    ],
)
def test_a_late_rank_is_blamed_although_every_rank_takes_as_long_for_a_step(
    server: ForkServer, worker: str, rank: int, options: dict[str, Scalar]
) -> None:
    slow = None
    for _ in range(MOST_TRIES):
        launches = [_launch(server, worker, {"late_rank": rank, **options}) for _ in range(3)]
        for launch in launches:
            assert [len(report.own_work_s) for report in launch.reports] == [STEPS - 1] * 2
            assert launch.own_work_s[rank][0] >= LATE_S
        if slow := straggler([LaunchTimes(LATE_S, launch.own_work_s) for launch in launches]):
            break
    assert slow is not None
    assert slow.rank == rank


def test_slowness_in_the_backward_pass_is_no_ranks_own_work(server: ForkServer) -> None:
    launch = _launch(server, DDP, {"late_in": "backward"})
    assert min(launch.step_time_s) >= LATE_S
    assert max(quartiles[0] for quartiles in launch.own_work_s) < LATE_S


def test_validation_and_a_single_rank_report_nothing(server: ForkServer) -> None:
    assert _launch(server, DDP, {}, "validate").own_work_s == []
    assert _launch(server, DDP, {}, gpus=1).own_work_s == []
