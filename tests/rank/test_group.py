"""A rank's place: its device is the GPU that was leased for it."""

from types import SimpleNamespace

import pytest
import torch

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.messages import Place
from pytest_dnnbench.rank import group
from pytest_dnnbench.rank.group import take_place

UUID = "3e8fc1a2-0000-1111-2222-333344445555"


@pytest.fixture
def _two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch with GPUs of these ids, as torch writes them."""
    devices = {"cuda:0": UUID, "cuda:1": "another"}
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda device: SimpleNamespace(uuid=devices[device]),
    )


def place(device: str, gpu_uuid: str) -> Place:
    return Place(0, 1, device, torch.get_num_threads(), "", 1.0, gpu_uuid=gpu_uuid)


@pytest.mark.usefixtures("_two_gpus")
def test_the_leased_gpu_is_taken_and_another_of_its_number_is_refused() -> None:
    take_place(place("cuda:0", f"GPU-{UUID}"))
    with pytest.raises(UsageError, match=f"cuda:1 is GPU-another and not GPU-{UUID}, which was"):
        take_place(place("cuda:1", f"GPU-{UUID}"))


@pytest.mark.usefixtures("_two_gpus")
def test_a_slice_is_not_checked_for_it_has_another_id() -> None:
    take_place(place("cuda:1", ""))


def test_ranks_that_leave_wait_between_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a barrier of NCCL's, ranks that had planned kept a GPU busy on which rank 0 still profiled
    the model: its times meant nothing."""
    called: list[str] = []
    reduced = SimpleNamespace(
        is_initialized=lambda: True,
        all_reduce=lambda tensor: called.append(f"all_reduce on {tensor.device}"),
    )
    monkeypatch.setattr(group, "dist", reduced)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: called.append("synchronize"))
    group.leave()
    assert called == ["synchronize", "all_reduce on cpu"]
