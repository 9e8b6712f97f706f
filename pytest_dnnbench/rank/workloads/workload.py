"""What a rank trains: a model, its loss, its optimiser and its data.

A user's own training is a subclass of Workload; every framework trains it through this seam, and
the proof's reference trains it in one process. Not here: image classifiers (image_workload.py),
which class or factory stands behind "module:factory" (factory.py), batches on a device
(batches.py), the step itself (frameworks/).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LRScheduler

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.messages import Sample
from pytest_dnnbench.rank.workloads.structure import tensors_of

Batch = tuple[Any, Any]
"""Inputs of the model, and targets of the loss. Both are a tensor or tuples, lists, dicts or
dataclasses of tensors (structure.py), on the host where a workload makes them."""

Context = AbstractContextManager[object]


@dataclass(frozen=True, slots=True)
class DataShare:
    """A shard's part of the real data: batches of `size` samples, of shard `shard` of `shards`, in
    this phase ("train" or "validate"), shuffled by `seed`; in pinned memory where they go to a
    GPU."""

    phase: str
    size: int
    shard: int
    shards: int
    seed: int
    pinned: bool = False


class Workload(ABC):
    """One training task. `model` and `batch` have to be written; everything else has a default.

    `model` and `batch` draw from torch's, Python's or NumPy's generators, which are seeded before
    each call: the same seed, shard and step give the same batch.
    """

    sample: Sample = "sample"
    """What throughput counts: "img", "tok" (each element of the first input) or "sample"."""

    clip_norm: float | None = None
    """The largest norm of all averaged gradients together; None: they are not clipped."""

    proof_size: int = 4
    """Samples in a minibatch of the proof, at least 2; of a case with smaller minibatches too."""

    output_name: str = "output"
    """What the record calls the model's output."""

    @abstractmethod
    def model(self) -> nn.Module:
        """A model with fresh weights, on the host, in the types that it is trained in."""

    @abstractmethod
    def batch(self, size: int) -> Batch:
        """A synthetic minibatch of so many samples on the host, in the types that the model
        takes."""

    def batch_on(self, size: int, device: torch.device) -> Batch:
        """As `batch`, for a rank on this device: on the host, or already there where it takes long
        to draw so many numbers on the host. Not for the proof."""
        return self.batch(size)

    def proof_batch(self, size: int) -> Batch:
        """As `batch`, for the proof: smaller where the mathematics is the same. The proof runs in
        float64, several times."""
        return self.batch(size)

    def loss(self, output: Any, targets: Any) -> torch.Tensor:
        """The mean loss of a minibatch, a scalar. Unless it is overridden: cross entropy of logits,
        (..., classes), and labels, (...)."""
        return cross_entropy(output.flatten(0, -2), targets.flatten())

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer | None:
        """A fresh optimiser of the parameters of `model`: the whole model, or a framework's part of
        it. None: SGD with the settings of the session."""
        return None

    def scheduler(self, optimizer: torch.optim.Optimizer) -> LRScheduler | None:
        """A fresh scheduler, stepped after every update; None: the rate stays as it is."""
        return None

    def batches(self, share: DataShare) -> Iterable[Batch] | None:
        """Endless full minibatches of real data on the host, all of the same size; None: synthetic
        ones."""
        return None

    def data_facts(self) -> dict[str, Scalar]:
        """What the record says of the data."""
        return {"source": "synthetic"}

    def details(self) -> dict[str, object]:
        """What the record says of the workload itself, such as sizes that it chose."""
        return {}

    def samples(self, inputs: Any) -> int:
        """Samples in the inputs of a minibatch: the length of the first tensor, or its elements
        where a sample is a token."""
        first = next(tensors_of(inputs))
        return first.numel() if self.sample == "tok" else len(first)

    def blocks(self, model: nn.Module) -> list[str]:
        """The names of the parts that frameworks wrap, checkpoint or cut between, in the order of
        the forward pass: by default the model's children that have parameters."""
        return [
            name
            for name, child in model.named_children()
            if next(child.parameters(), None) is not None
        ]

    def split(self, model: nn.Module, ranks: int) -> dict[str, str]:
        """The linear layers that tensor parallelism splits among ranks, by name: "column" (each
        rank makes a part of the outputs) or "row" (each rank takes a part of the inputs, which a
        column layer has made, and the results are added), or "heads" for nn.MultiheadAttention
        and torchvision's attention in windows (each rank makes a part of the heads). Empty: the
        model cannot be split. Raises UsageError for a number of ranks that does not divide what is
        split."""
        return {}

    def sequence(self, model: nn.Module, ranks: int) -> dict[str, str]:
        """The parts of the model between whose split layers the sequence can be shared out among
        ranks, by name. Each takes one tensor, (batch, sequence, ...): "cut" takes the whole of it,
        and ranks go on with a part each; "part" (a norm) runs on a rank's part, with weights that
        every rank has; "whole" gets the parts gathered, and what its row layers add up is shared
        out again. Empty: the model cannot do that. Raises UsageError for a number of ranks that
        does not divide the sequence."""
        return {}

    def forward(self, model: nn.Module, inputs: Any) -> Any:
        """The model's output: of a tensor, of a tuple's or list's values in their order, or of a
        dict's by their names."""
        return called(model, inputs)

    def loss_of(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Forward pass and loss."""
        inputs, targets = batch
        return self.loss(self.forward(model, inputs), targets)

    def validate(
        self, model: nn.Module, device: torch.device, context: Context
    ) -> tuple[int, int] | None:
        """Right answers and samples of the whole validation set, with the model in evaluation mode
        and without gradients, each forward pass in `context`; None where there is none."""
        return None


def called(model: Callable[..., Any], inputs: Any) -> Any:
    """What a model returns for a tensor, for a tuple's or list's values in their order, or for a
    dict's by their names."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)
