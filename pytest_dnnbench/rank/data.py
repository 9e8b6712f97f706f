"""The images and labels that a rank trains or validates on, as batches on its device.

Not here: where the files are and whether they are whole (mnist_files.py checks that before any rank
starts).
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from pytest_dnnbench.case import Case
from pytest_dnnbench.errors import DataError
from pytest_dnnbench.messages import Place
from pytest_dnnbench.mnist_files import SPLIT_SEED, MnistFiles, read_idx
from pytest_dnnbench.rank import marks
from pytest_dnnbench.rank.torchvision_ops import load_torchvision

load_torchvision()
from torchvision.datasets.mnist import (  # noqa: E402 - needs the line above
    MNIST,
    read_image_file,
    read_label_file,
)

Batch = tuple[torch.Tensor, torch.Tensor]
"""Images, (batch, channels, height, width), and labels, (batch,) of int64."""

SYNTHETIC_BATCHES = 4
"""Different batches per rank, in turn: with more than one, nothing of a step can be reused in the
next."""

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
"""Mean and standard deviation of MNIST's training pixels, scaled to 0..1."""


def synthetic_batch(
    case: Case,
    shard: int,
    index: int,
    device: torch.device,
    *,
    size: int | None = None,
    dtype: torch.dtype,
) -> Batch:
    """Batch `index` of a shard: standard normal images and uniform labels. Every run on a kind of
    device gives the same batch."""
    generator = torch.Generator(device).manual_seed(hash((case.seed, shard, index)) % 2**63)
    shape = (size or case.batch_size, case.channels, case.image_size, case.image_size)
    images = torch.randn(shape, generator=generator, device=device, dtype=dtype)
    labels = torch.randint(case.classes, shape[:1], generator=generator, device=device)
    return images, labels


def batches(
    case: Case, files: MnistFiles | None, shard: int, shards: int, device: torch.device
) -> Iterator[Batch]:
    """Endless full batches of `case.batch_size` images: this shard's part of the case's data. The
    wait for each is marked as data wait."""
    if files is None:
        return marks.each(_synthetic(case, shard, device))
    return marks.each(_mnist(case, files, shard, shards, device))


def _synthetic(case: Case, shard: int, device: torch.device) -> Iterator[Batch]:
    made = [
        synthetic_batch(case, shard, index, device, dtype=torch.float32)
        for index in range(SYNTHETIC_BATCHES)
    ]
    while True:
        yield from made


def _mnist(
    case: Case, files: MnistFiles, shard: int, shards: int, device: torch.device
) -> Iterator[Batch]:
    digits = Digits(files, case.phase)
    sampler: DistributedSampler[Batch] = DistributedSampler(
        digits, shards, shard, shuffle=case.phase == "train", seed=case.seed, drop_last=True
    )
    loader: DataLoader[Batch] = DataLoader(
        digits,
        case.batch_size,
        sampler=sampler,
        drop_last=True,
        collate_fn=_already_a_batch,
        pin_memory=device.type == "cuda",
    )
    epoch = 0
    while True:
        sampler.set_epoch(epoch)
        for images, labels in loader:
            yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        epoch += 1


class Digits(Dataset[Batch]):
    """MNIST's training or validation part, normalised. It is read with torchvision's reader and
    gives whole batches at a time."""

    def __init__(self, files: MnistFiles, phase: str) -> None:
        train = phase == "train"
        images = _read(files.train_images if train else files.validate_images, read_image_file)
        labels = _read(files.train_labels if train else files.validate_labels, read_label_file)
        if files.held_out:
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SPLIT_SEED))
            order = order[: -files.held_out] if train else order[-files.held_out :]
            images, labels = images[order], labels[order]
        self.images = ((images.unsqueeze(1).float() / 255) - MNIST_MEAN) / MNIST_STD
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Batch:
        return self.images[index], self.labels[index]

    def __getitems__(self, indices: list[int]) -> Batch:
        return self.images[indices], self.labels[indices]


def _already_a_batch(batch: Any) -> Batch:
    return batch  # type: ignore[no-any-return] # the loader's types know only lists of items


def _read(path: str, reader: Callable[[str], torch.Tensor]) -> torch.Tensor:
    if not path.endswith(".gz"):
        return reader(path)
    with tempfile.TemporaryDirectory(prefix="dnnbench-mnist-") as directory:
        plain = Path(directory) / "idx"
        plain.write_bytes(read_idx(path))
        return reader(str(plain))


def download(place: Place, folder: str) -> None:
    """Lets torchvision download the full MNIST set into `folder`. Raises DataError when that
    fails."""
    try:
        MNIST(folder, train=True, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"MNIST could not be downloaded into {folder!r} ({error}):"
            " check the network, or put the four files there by hand"
        ) from error
