"""A shelf keeps every bit of a tensor, the first ones in memory and the others in a file that
leaves nothing behind."""

import errno
import os
from pathlib import Path

import pytest
import torch

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.proof import shelf
from pytest_dnnbench.rank.proof.shelf import Shelf, folder_on_disk

TENSORS = {
    "weights": torch.randn(3, 5, dtype=torch.float64),
    "narrow": torch.randn(4).to(torch.bfloat16),
    "complex": torch.randn(2, 2, dtype=torch.complex64).conj(),
    "turned": torch.arange(6.0).reshape(2, 3).t(),
    "not a number": torch.tensor([float("nan"), -0.0, float("inf")]),
    "count": torch.tensor(7),
    "flags": torch.tensor([True, False]),
    "empty": torch.empty(0, 3),
}


@pytest.mark.parametrize("in_memory", [0, 1 << 20])
def test_a_tensor_comes_back_bit_for_bit(monkeypatch: pytest.MonkeyPatch, in_memory: int) -> None:
    monkeypatch.setattr(shelf, "IN_MEMORY_BYTES", in_memory)
    kept = Shelf()
    for name, tensor in TENSORS.items():
        kept.put(name, tensor)
    assert list(kept) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert kept[name].dtype == tensor.dtype
        torch.testing.assert_close(kept[name], tensor, rtol=0, atol=0, equal_nan=True)
        emptied = torch.zeros_like(tensor)
        kept.put_back(name, emptied)
        torch.testing.assert_close(emptied, tensor, rtol=0, atol=0, equal_nan=True)


def test_what_is_put_aside_does_not_follow_its_tensor() -> None:
    tensor, kept = torch.zeros(2), Shelf()
    kept.put("weight", tensor)
    tensor.add_(1)
    assert kept["weight"].tolist() == [0, 0]


def test_shelves_share_the_memory_that_they_may_take_and_give_it_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = Shelf.on_all_bytes
    monkeypatch.setattr(shelf, "IN_MEMORY_BYTES", held + 100)
    first, second = Shelf(), Shelf()
    first.put("a", torch.zeros(20))
    second.put("b", torch.zeros(20))  # 160 bytes: in a file
    assert Shelf.on_all_bytes == held + 80
    assert second["b"] is not second["b"]
    del first
    assert Shelf.on_all_bytes == held
    second.put("c", torch.zeros(20))
    assert second["c"] is second["c"]


def test_a_full_disk_is_told_with_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shelf, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UsageError, match=r"No space left on device.*set TMPDIR"):
        Shelf().put("weight", torch.zeros(3))


@pytest.mark.parametrize(
    ("mounts", "folder"),
    [
        ("/dev/vda / ext4 rw\n", "/tmp"),
        ("/dev/vda / ext4 rw\ntmpfs /tmp tmpfs rw\n", "/var/tmp"),
        ("overlay / overlay rw\ntmpfs /tmp tmpfs rw\n/dev/sdb /tmp xfs rw\n", "/tmp"),
        ("tmpfs / tmpfs rw\n", "/tmp"),
    ],
)
def test_the_file_lies_on_a_disk_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mounts: str, folder: str
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/tmp")
    (tmp_path / "mounts").write_text(mounts)
    assert folder_on_disk(tmp_path / "mounts") == folder
