"""The machine's own speed, measured apart from every framework."""

import time

import pytest

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE_MACHINE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import Place
from pytest_dnnbench.rank import yardstick
from tests.patience import HANG_S


def place(threads: int) -> Place:
    return Place(rank=0, world_size=1, device="cpu", threads=threads, rendezvous="", timeout_s=60)


def test_a_rank_of_its_own_measures_a_time(server: ForkServer) -> None:
    for threads in (1, 2):
        ranks = Ranks(server, ["cpu"], threads=threads, timeout_s=HANG_S)
        (seconds,) = ranks.launch(MEASURE_MACHINE)
        assert 0 < seconds < HANG_S


def test_the_slowest_thread_of_each_round_counts_and_of_the_rounds_the_lower_quartile() -> None:
    quick, slow = [1.0] * 7, [2.0, 1.0, 4.0, 8.0, 8.0, 8.0, 8.0]
    assert yardstick.typical_s([quick, quick]) == 1.0
    assert yardstick.typical_s([quick, slow]) == 2.0
    assert yardstick.typical_s([slow, quick]) == 2.0


def test_a_disturbance_of_most_rounds_but_not_all_leaves_the_figure() -> None:
    assert yardstick.typical_s([[1.0] * 5 + [9.0] * 11]) == 1.0
    assert yardstick.typical_s([[1.0] * 2 + [9.0] * 14]) > 1.0


def test_threads_are_held_on_a_core_each_only_where_every_core_has_one() -> None:
    assert yardstick.cores_of_threads({5, 3, 4}, 3) == [3, 4, 5]
    assert yardstick.cores_of_threads({5, 3, 4}, 2) == [None, None]


def test_more_work_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", time.thread_time)  # without waiting for a core
    monkeypatch.setattr(yardstick, "ROUNDS", 4)
    once = yardstick.measure(place(1))
    monkeypatch.setattr(yardstick, "_PRODUCTS", 10 * yardstick._PRODUCTS)
    monkeypatch.setattr(yardstick, "_COPIES", 10 * yardstick._COPIES)
    assert yardstick.measure(place(1)) > 3 * once
