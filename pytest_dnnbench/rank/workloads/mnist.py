"""MNIST's images and labels, as batches on the host.

Not here: synthetic images (image_workload.py), batches on a rank's device (batches.py), where the
files are and whether they are whole (mnist_files.py checks that before any rank starts).
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from pytest_dnnbench.errors import DataError
from pytest_dnnbench.messages import Place
from pytest_dnnbench.mnist_files import SPLIT_SEED, MnistFiles, read_idx
from pytest_dnnbench.rank.workloads.torchvision_ops import load_torchvision
from pytest_dnnbench.rank.workloads.workload import DataShare

load_torchvision()
from torchvision.datasets.mnist import (  # noqa: E402 - needs the line above
    MNIST,
    read_image_file,
    read_label_file,
)

Batch = tuple[torch.Tensor, torch.Tensor]
"""Images, (batch, channels, height, width), and labels, (batch,) of int64."""

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
"""Mean and standard deviation of MNIST's training pixels, scaled to 0..1."""


def mnist_batches(files: MnistFiles, share: DataShare) -> Iterator[Batch]:
    """Endless full batches of a shard of MNIST, on the host."""
    digits = Digits(files, share.phase)
    sampler: DistributedSampler[Batch] = DistributedSampler(
        digits,
        share.shards,
        share.shard,
        shuffle=share.phase == "train",
        seed=share.seed,
        drop_last=True,
    )
    loader: DataLoader[Batch] = DataLoader(
        digits,
        share.size,
        sampler=sampler,
        drop_last=True,
        collate_fn=_already_a_batch,
        pin_memory=share.pinned,
    )
    epoch = 0
    while True:
        sampler.set_epoch(epoch)
        yield from loader
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
