"""A workload's batches as a rank takes them: the same for the same seed, shard and step, on its
device, and in double precision for the proof.

Not here: what is in a batch (workload.py), MNIST's images (mnist.py).
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
import torch

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank import marks
from pytest_dnnbench.rank.workloads.checks import checked_batch, checked_batches
from pytest_dnnbench.rank.workloads.image_models import seed, widened
from pytest_dnnbench.rank.workloads.structure import Structure, mapped, tensors_of
from pytest_dnnbench.rank.workloads.workload import Batch, DataShare, Workload

SYNTHETIC_BATCHES = 4
"""Different batches per rank, in turn: with more than one, nothing of a step can be reused in the
next."""


def synthetic_batch(
    workload: Workload,
    shard: int,
    index: int,
    device: torch.device,
    *,
    size: int,
    seed: int,
    proof: bool = False,
) -> Batch:
    """Batch `index` of a shard, or the proof's, the same in every run. Raises UsageError for what
    is no batch."""
    with _seeded(hash((seed, shard, index)) % 2**63, device):
        batch = workload.proof_batch(size) if proof else workload.batch_on(size, device)
    own = proof and type(workload).proof_batch is not Workload.proof_batch
    method = "proof_batch" if own else "batch"
    return moved(checked_batch(batch, workload, size, method), device)


def batches(workload: Workload, share: DataShare, device: torch.device) -> Iterator[Batch]:
    """Endless full batches of a shard: of the workload's real data, or else synthetic ones. The
    wait for each is marked as data wait. Raises UsageError for data that ends."""
    if (real := workload.batches(share)) is not None:
        checked = checked_batches(real, workload, share.size)
        return marks.each(moved(batch, device) for batch in checked)
    made = [
        synthetic_batch(workload, share.shard, index, device, size=share.size, seed=share.seed)
        for index in range(SYNTHETIC_BATCHES)
    ]
    return marks.each(batch for turn in repeat(made) for batch in turn)


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    inputs, targets = batch
    return _on(inputs, device), _on(targets, device)


def wide(batch: Batch) -> Batch:
    """The batch with every floating-point tensor in double precision, each value kept exactly."""
    inputs, targets = batch
    return mapped(inputs, widened), mapped(targets, widened)


def _on(tree: Any, device: torch.device) -> Any:
    return mapped(tree, lambda tensor: tensor.to(device, non_blocking=True))


def joined(trees: Sequence[Any]) -> Any:
    """Inputs of several minibatches as those of one, along the first dimension; values that are no
    tensors are the first's."""
    first = trees[0]
    rows = [tuple(tensors_of(tree)) for tree in trees]
    return Structure(first).tree([torch.cat(tensors) for tensors in zip(*rows, strict=True)])


def parted(tree: Any, lengths: Sequence[int]) -> list[Any]:
    """The outputs of joined minibatches, of these many samples, as those of each. Raises UsageError
    for a tensor that has not the samples in its first dimension."""

    def part(tensor: torch.Tensor, number: int) -> torch.Tensor:
        if tensor.dim() == 0 or len(tensor) != sum(lengths):
            raise UsageError(
                f"the model's output of shape {tuple(tensor.shape)} has not the {sum(lengths)}"
                " samples of its inputs in its first dimension, so that ranks' parts of it cannot"
                " be told apart: leave out what joins their samples, --dnn-ddp-sync-batchnorm"
            )
        return torch.split(tensor, list(lengths))[number]

    return [mapped(tree, partial(part, number=number)) for number in range(len(lengths))]


@contextmanager
def _seeded(number: int, device: torch.device) -> Iterator[None]:
    """Seeds every generator that a batch for this device may draw from, and puts the former states
    back."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed(number)
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])
