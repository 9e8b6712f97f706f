"""What a pipeline does on GPUs, with torch's answers injected."""

import threading
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pytest_dnnbench.messages import Place
from pytest_dnnbench.rank import group
from pytest_dnnbench.rank.pipeline import planning, transfer
from pytest_dnnbench.rank.pipeline.planning import bandwidth_of, device_memory
from pytest_dnnbench.rank.pipeline.transfer import Alarm, Inbox, Outbox
from pytest_dnnbench.rank.pipeline.turns import NoTurns, RankTurns, turns_of
from pytest_dnnbench.rank.stopwatch import recorded_event

MIB = 1 << 20


def test_threads_of_transfers_work_on_their_ranks_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new thread is on GPU 0: every rank made a context there."""
    begun: list[str] = []

    class Line:
        def begin_thread(self) -> None:
            begun.append(threading.current_thread().name)

        def running(self) -> AbstractContextManager[object]:
            return nullcontext()

        def mark(self) -> None: ...

        def follow(self, mark: Any, tensors: Any) -> None: ...

    monkeypatch.setattr(transfer, "stream_for", lambda device: Line())
    group: Any = None  # nothing is sent
    outbox = Outbox(1, group, torch.device("cpu"), Alarm(), 1)
    inbox = Inbox(2, group, torch.device("cpu"), Alarm())
    outbox.close(5.0)
    inbox.close(5.0)
    assert sorted(begun) == ["receive from rank 2", "send to rank 1"]


def test_a_thread_that_waits_for_its_gpu_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of several transfer threads would otherwise spin on a core of the rank."""
    made: list[dict[str, bool]] = []

    class Event:
        def __init__(self, **settings: bool) -> None:
            made.append(settings)

        def record(self, stream: object) -> None: ...

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    recorded_event(torch.device("cuda:0"), timed=False)
    recorded_event(torch.device("cuda:0"), timed=True)
    assert made == [
        {"enable_timing": False, "blocking": True},
        {"enable_timing": True, "blocking": False},
    ]


def test_turns_are_for_links_between_gpus() -> None:
    assert isinstance(turns_of(0, 2, torch.device("cuda:0")), RankTurns)
    assert isinstance(turns_of(0, 1, torch.device("cuda:0")), NoTurns)
    assert isinstance(turns_of(0, 2, torch.device("cpu")), NoTurns)


def test_a_links_noise_does_not_change_the_bandwidth_of_gpus() -> None:
    quiet = bandwidth_of(256 * MIB, [1.20e-3, 1.00e-3, 1.01e-3], on_gpu=True)
    noisy = bandwidth_of(256 * MIB, [1.03e-3, 9.00e-3, 2.00e-3], on_gpu=True)
    assert quiet == noisy == 3e11
    assert bandwidth_of(16 * MIB, [2.0, 1.0, 4.0], on_gpu=False) == 8 * MIB


def test_a_plan_leaves_memory_to_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70e9, 80e9))
    place = Place(0, 2, "cuda:0", 1, "", 1.0)
    assert device_memory(place) == pytest.approx(63e9)
    assert device_memory(Place(0, 2, "cpu", 1, "", 1.0)) is None
    assert planning.USABLE_MEMORY < 1


def test_ranks_of_one_gpu_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70e9, 80e9))
    place = Place(0, 4, "cuda:0", 1, "", 1.0, sharing=3)
    assert device_memory(place) == pytest.approx(21e9)


@pytest.mark.parametrize(("sharing", "profiling"), [(1, [0, 1]), (2, [0])])
def test_of_ranks_that_share_a_gpu_the_first_profiles_alone(
    monkeypatch: pytest.MonkeyPatch, sharing: int, profiling: list[int]
) -> None:
    """A time between two moments of a GPU holds the turns of all the ranks that work on it."""
    profiled: list[int] = []

    def note(place: Place, request: Any) -> Any:
        profiled.append(place.rank)
        return f"of rank {place.rank}"

    monkeypatch.setattr(group, "meet", lambda: None)
    monkeypatch.setattr(planning, "case_profile", note)
    request: Any = None  # handed on
    places = [Place(rank, 2, "cuda:0", 1, "", 1.0, sharing=sharing) for rank in range(2)]
    profiles: list[Any] = [planning._profile(place, request) for place in places]
    assert profiles == ["of rank 0", None]
    assert profiled == profiling


@pytest.mark.parametrize(("sharing", "size"), [(1, 256 * MIB), (4, 16 * MIB)])
def test_a_bandwidth_is_measured_while_no_other_rank_keeps_the_gpu_busy(
    monkeypatch: pytest.MonkeyPatch, sharing: int, size: int
) -> None:
    """Ranks that had no part in it waited in a barrier on the GPU: of four ranks that shared one,
    two took its turns for nothing."""
    called: list[tuple[str, int]] = []
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: zeros(*shape))
    ours = SimpleNamespace(
        send=lambda tensor, peer: called.append(("send", tensor.nbytes)),
        recv=lambda tensor, peer: called.append(("recv", tensor.nbytes)),
        broadcast_object_list=lambda objects: None,
    )
    monkeypatch.setattr(planning, "dist", ours)
    monkeypatch.setattr(group, "meet", lambda: called.append(("meet", 0)))
    for rank, expected in (
        (0, [("meet", 0), ("send", size), ("recv", 4)]),
        (1, [("meet", 0), ("recv", size), ("send", 4)]),
        (2, [("meet", 0)]),
    ):
        called.clear()
        planning.measured_bandwidth(Place(rank, 4, "cuda:0", 1, "", 1.0, sharing=sharing))
        assert called == expected * 5
