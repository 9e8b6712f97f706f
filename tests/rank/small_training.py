"""Two trainings small enough for every framework, one with batch normalisation and one of a
transformer, and what runs on the ranks: a proof in the timed types, then steps in float64."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import nn

from pytest_dnnbench.messages import Correctness, Place, RunRequest, Sample
from pytest_dnnbench.rank import group
from pytest_dnnbench.rank.whole import whole
from pytest_dnnbench.rank.worker import Stepper
from pytest_dnnbench.rank.worker_checks import worker_kind
from pytest_dnnbench.rank.workloads.workload import Batch, DataShare, Workload
from tests.pipeline.models import Residual

VOCABULARY, LENGTH, WIDTH, HEAD = 11, 5, 16, 4


class Training(Workload):
    """Its minibatches follow from their shard and number alone."""

    dtype = torch.float32

    def batches(self, share: DataShare) -> Iterator[Batch]:
        """Those of a shard."""
        return (self.minibatch(share.shard, number, share.size) for number in count())

    def minibatch(self, shard: int, number: int, size: int) -> Batch:
        """One of them."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 * shard + number)
            return self.batch(size)


class Normalised(Training):
    """Images through convolutions with batch normalisation, trained by the session's SGD."""

    sample: Sample = "img"

    def model(self) -> nn.Module:
        """Four blocks with skips around them and around all of them."""
        return Residual().to(self.dtype)

    def batch(self, size: int) -> Batch:
        """Noise, and classes."""
        return torch.randn(size, 1, 16, 16, dtype=self.dtype), torch.randint(10, (size,))


class Attention(nn.Module):
    """Self-attention of heads of four, as many as its layers make."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(batch, places, width), the same shape."""
        batch, places, _ = inputs.shape
        query, key, value = (
            layer(inputs).view(batch, places, -1, HEAD).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        heads = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        mixed: torch.Tensor = self.mix(heads.transpose(1, 2).reshape(batch, places, -1))
        return mixed


class Block(nn.Module):
    """Attention and a perceptron, each beside a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """(batch, places, width), the same shape."""
        value = value + self.attention(self.first(value))
        grown: torch.Tensor = value + self.down(torch.tanh(self.up(self.second(value))))
        return grown


class Attending(Training):
    """Tokens through a transformer, trained by AdamW, of its own."""

    sample: Sample = "tok"

    def model(self) -> nn.Module:
        """Two blocks between an embedding and a head."""
        parts = nn.Embedding(VOCABULARY, WIDTH), Block(), Block(), nn.LayerNorm(WIDTH)
        return nn.Sequential(*parts, nn.Linear(WIDTH, VOCABULARY)).to(self.dtype)

    def batch(self, size: int) -> Batch:
        """Tokens, and those that follow."""
        tokens = torch.randint(VOCABULARY, (size, LENGTH + 1))
        return tokens[:, :-1], tokens[:, 1:]

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW, whose updates depend on the size of the gradients, not on their direction
        alone."""
        return torch.optim.AdamW(model.parameters(), lr=0.01, eps=0.01)

    def split(self, model: nn.Module, ranks: int) -> dict[str, str]:
        """Attention by heads, and the perceptrons."""
        ways = dict.fromkeys(
            ("attention.query", "attention.key", "attention.value", "up"), "column"
        )
        ways |= dict.fromkeys(("attention.mix", "down"), "row")
        return {f"{block}.{name}": way for block in (1, 2) for name, way in ways.items()}


class WideNormalised(Normalised):
    """In float64, as it is timed."""

    dtype = torch.float64


class WideAttending(Attending):
    """In float64, as it is timed."""

    dtype = torch.float64


Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, slots=True)
class Trained:
    """What a rank has after its steps.

    replica        which of the replicas of the model, or of its stages, it belongs to
    stages         by the name of a parameter that the rank holds, its stage; 0 where there are none
    parameters, buffers    by their names in the model, wholes of what ranks share out
    losses         by the number of a step
    """

    replica: int
    stages: dict[str, int]
    parameters: Arrays
    buffers: Arrays
    losses: dict[int, float]


_KEPT: list[Stepper] = []
"""Keeps workers to the end of their process, which must not tear down their groups."""


def prove_and_train(
    place: Place, proven: RunRequest, trained: RunRequest, steps: int
) -> tuple[Correctness, Trained]:
    """Proves one request, then runs the steps of the other in the way that is timed."""
    kind = worker_kind(proven.worker)
    group.take_place(place)
    prover, worker = kind(place, proven), kind(place, trained)
    _KEPT.extend([prover, worker])
    prover.connect()
    evidence = prover.prove()
    worker.build()
    losses = {step.index: float(step.loss) for step in worker.run(steps) if step.loss is not None}
    result = _trained(worker, losses)
    worker.close()
    return evidence, result


def _trained(worker: Any, losses: dict[int, float]) -> Trained:
    runtime = getattr(worker, "_runtime", None)
    modules: dict[int, nn.Module] = runtime.modules if runtime else {0: worker.module}
    parameters = {
        name: (stage, parameter)
        for stage, module in modules.items()
        for name, parameter in module.named_parameters()
    }
    buffers = {
        name: tensor for module in modules.values() for name, tensor in module.named_buffers()
    }
    return Trained(
        runtime.replica if runtime else worker.shard,
        {name: stage for name, (stage, _) in parameters.items()},
        {name: whole(each.detach()).numpy() for name, (_, each) in parameters.items()},
        {name: tensor.numpy() for name, tensor in buffers.items()},
        losses,
    )
