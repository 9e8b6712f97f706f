"""The proof of a data-parallel framework: a few steps in float64, compared with the reference
(rank/reference.py) parameter by parameter.

Rank 0 compares. The other ranks send a fingerprint of what they hold, which must be rank 0's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn

from pytest_dnnbench.case import Case
from pytest_dnnbench.messages import Correctness, Place, RunRequest
from pytest_dnnbench.rank.data import Batch, synthetic_batch
from pytest_dnnbench.rank.reference import (
    Reference,
    ReferenceStep,
    detached,
    deviation,
    digest,
    without_randomness,
)

PROOF_STEPS = 2
"""An error in the momentum, the buffers or the first update shows in the second step."""

PROOF_TOLERANCE = 1e-9
"""In float64 a right step differs from the reference by the order of a few sums: about 1e-15, which
BatchNorm over few values amplifies."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """How far rounding may move averaged gradients: by `relative` times the larger of `floor` and
    the largest element of the tensor."""

    relative: float
    floor: float


class ProvenWorker(Protocol):
    """What the proof needs of a worker. `model` wraps `module` as in training; both are built in
    float64, without randomness."""

    place: Place
    case: Case
    request: RunRequest
    device: torch.device
    module: nn.Module
    model: nn.Module
    passes: int
    proof_tolerance: float
    rounding: Rounding | None

    def fresh_module(self, rank: int, dtype: torch.dtype) -> nn.Module:
        """The case's model with the first weights of a rank."""

    def train_step(self, minibatches: Sequence[Batch]) -> torch.Tensor:
        """One step of the framework."""


def prove_training(worker: ProvenWorker) -> Correctness:
    """Trains PROOF_STEPS steps and compares gradients, parameters and buffers after each with those
    of the reference on the same global batch."""
    worker.model.train()
    rank, passes = worker.place.rank, worker.passes
    expected = Reference(_reference_module(worker), worker.request) if rank == 0 else None
    comparison = _Comparison(worker.proof_tolerance, worker.rounding)
    fingerprints: list[str] = []
    for index in range(PROOF_STEPS):
        shards = [
            _proof_batch(worker, shard, index) for shard in range(worker.place.world_size * passes)
        ]
        worker.train_step(shards[rank * passes :][:passes])
        step = _step_of(worker.module)
        fingerprints += [digest(step.gradients), digest(step.parameters)]
        if expected is not None:
            # Where the exchange rounds, the reference updates by the gradients that arrived: then
            # rounding explains no difference of the parameters.
            arrived = step.gradients if worker.rounding else None
            comparison.add(index, step, expected.step(shards, passes, arrived))
    return Correctness(
        deviations=comparison.largest if expected is not None else {},
        tolerances=comparison.tolerances if expected is not None else {},
        failures=tuple(comparison.failures),
        about={
            "reference": "one process, the mean of the shards' gradients, SGD written out",
            "dtype": "float64",
            "steps": PROOF_STEPS,
            "batch_size": _proof_size(worker.case),
            "digest": " ".join(fingerprints),
        },
    )


def prove_validation(worker: ProvenWorker) -> Correctness:
    """Compares the logits in evaluation mode with those of a plain module with rank 0's weights."""
    worker.module.eval()
    images, _ = _proof_batch(worker, 0, 0)
    with torch.no_grad():
        got = {"logits": worker.module(images)}
        expected = {"logits": _reference_module(worker).eval()(images)}
    deviates, _ = deviation(got, expected)
    wrong = not deviates <= worker.proof_tolerance
    failure = f"logits of rank {worker.place.rank} deviate by {deviates:.3g}"
    return Correctness(
        deviations={"logits": deviates},
        tolerances={"logits": worker.proof_tolerance},
        failures=(failure,) if wrong else (),
        about={
            "reference": "a plain module with rank 0's weights, in evaluation mode",
            "dtype": "float64",
            "batch_size": _proof_size(worker.case),
            "digest": digest(got),
        },
    )


@dataclass
class _Comparison:
    """The largest deviation so far of each kind of tensors, and every one above its tolerance."""

    tolerance: float
    rounding: Rounding | None
    largest: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def tolerances(self) -> dict[str, float]:
        return {kind: self._bounds(kind)[0] for kind in self.largest}

    def add(self, index: int, step: ReferenceStep, expected: ReferenceStep) -> None:
        self._compare(index, "gradients", step.gradients, expected.gradients)
        self._compare(index, "parameters", step.parameters, expected.parameters)
        self._compare(index, "buffers", step.buffers, expected.buffers)

    def _compare(
        self,
        index: int,
        kind: str,
        got: Mapping[str, torch.Tensor],
        expected: Mapping[str, torch.Tensor],
    ) -> None:
        tolerance, floor = self._bounds(kind)
        deviates, where = deviation(got, expected, floor)
        self.largest[kind] = max(self.largest.get(kind, 0.0), deviates)
        if not deviates <= tolerance:
            self.failures.append(f"{kind} of step {index}: {where} deviates by {deviates:.3g}")

    def _bounds(self, kind: str) -> tuple[float, float]:
        """The tolerance of a kind, and the floor of the scale that deviations are relative to."""
        if self.rounding is not None and kind == "gradients":
            return self.rounding.relative, self.rounding.floor
        return self.tolerance, 1.0


def _step_of(module: nn.Module) -> ReferenceStep:
    """What the module holds after a step."""
    gradients = {
        name: parameter.grad.detach()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
    return ReferenceStep(
        gradients, detached(module.named_parameters()), dict(module.named_buffers())
    )


def _reference_module(worker: ProvenWorker) -> nn.Module:
    return without_randomness(worker.fresh_module(0, torch.float64))


def _proof_size(case: Case) -> int:
    """Images in a minibatch of the proof: few, but BatchNorm needs two."""
    return max(2, min(case.batch_size, 4 if case.channels == 1 else 2))


def _proof_batch(worker: ProvenWorker, shard: int, index: int) -> Batch:
    size = _proof_size(worker.case)
    return synthetic_batch(worker.case, shard, index, worker.device, size=size, dtype=torch.float64)
