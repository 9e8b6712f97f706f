"""The machine's own speed, measured apart from every framework."""

import os
import statistics
import threading

import pytest

from pytest_dnnbench.controller.case_run import MEASURE_MACHINE
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import Place
from pytest_dnnbench.rank import yardstick


def place(threads: int) -> Place:
    return Place(rank=0, world_size=1, device="cpu", threads=threads, rendezvous="", timeout_s=60)


def test_a_rank_of_its_own_measures_a_time(server: ForkServer) -> None:
    for threads in (1, 2):
        (seconds,) = Ranks(server, ["cpu"], threads=threads, timeout_s=60).launch(MEASURE_MACHINE)
        assert 0 < seconds < 60


def test_the_slowest_thread_of_each_round_counts_and_of_the_rounds_the_lower_quartile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds = {0: [1.0, 2.0, 3.0, 9.0, 9.0, 9.0, 9.0], 1: [2.0, 1.0, 4.0, 1.0, 1.0, 1.0, 1.0]}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(yardstick, "_rounds", lambda together, core: rounds[core])
    assert (
        yardstick.measure(place(2))
        == statistics.quantiles([2.0, 2.0, 4.0, 9.0, 9.0, 9.0, 9.0], n=4)[0]
    )


def test_threads_are_held_on_a_core_each_only_where_every_core_has_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[int, int | None]] = []

    def rounds(together: threading.Barrier, core: int | None) -> list[float]:
        calls.append((together.parties, core))
        return [1.0, 1.0]

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 3, 4})
    monkeypatch.setattr(yardstick, "_rounds", rounds)
    yardstick.measure(place(3))
    assert sorted(calls, key=str) == [(3, 3), (3, 4), (3, 5)]
    calls.clear()
    yardstick.measure(place(2))
    assert calls == [(2, None), (2, None)]


def test_more_work_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    once = yardstick.measure(place(1))
    monkeypatch.setattr(yardstick, "_PRODUCTS", 10 * yardstick._PRODUCTS)
    monkeypatch.setattr(yardstick, "_COPIES", 10 * yardstick._COPIES)
    assert yardstick.measure(place(1)) > 3 * once
