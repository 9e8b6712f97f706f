"""The framework's part of the proof of a data-parallel step: it runs on every rank. Rank 0 puts
aside what each step leaves; of the timed step, the rank that follows it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from pytest_dnnbench.rank.proof.arithmetic import Arithmetic
from pytest_dnnbench.rank.proof.conditions import two_may_follow
from pytest_dnnbench.rank.proof.distance import Tensors
from pytest_dnnbench.rank.proof.fingerprint import TensorFingerprint
from pytest_dnnbench.rank.proof.float64_convolutions import Float64Convolutions
from pytest_dnnbench.rank.proof.low_rank import LowRank
from pytest_dnnbench.rank.proof.proven_worker import (
    ProvenWorker,
    about_of,
    minibatches_of,
    own_minibatches,
    randomness_off,
)
from pytest_dnnbench.rank.proof.randomness import NoRandomness
from pytest_dnnbench.rank.proof.reference_update import in_words
from pytest_dnnbench.rank.proof.shelf import Shelf
from pytest_dnnbench.rank.update_rule import rates_of
from pytest_dnnbench.rank.whole import whole
from pytest_dnnbench.rank.workloads.batches import wide

PROOF_STEPS = 2
"""An error in the momentum, the buffers or the first update shows in the second step."""

CAPTURED_STEPS = 3
"""Of a step that is captured (step_graph.py): one as it is written, one captured, one replayed."""


@dataclass(slots=True)
class FrameworkStep:
    """What a step left on this rank, put aside; rank 0 keeps it. Of a step in the timed types the
    gradients only, its losses by the number of the shard, and what its exchange started from where
    that approximates."""

    gradients: Mapping[str, torch.Tensor]
    parameters: Mapping[str, torch.Tensor]
    buffers: Tensors
    rates: Tensors
    losses: Tensors = field(default_factory=dict)
    approximation: LowRank | None = None

    def clear(self) -> None:
        """Gives up the tensors."""
        self.gradients, self.parameters, self.buffers = {}, {}, {}


class FrameworkSteps:
    """The framework's part: its steps, and what each left. Called on all ranks."""

    def __init__(self, worker: ProvenWorker, arithmetic: Arithmetic) -> None:
        self.worker = worker
        self.fingerprints: list[str] = []
        self.timed_at = 0
        """The rank that follows the timed step with a reference."""
        self.timed = self._timed_step()
        self.about = about_of(worker, arithmetic)
        self.approximation: LowRank | None = None
        self.steps: list[FrameworkStep] = []
        worker.build_wide()
        worker.model.train()
        steps = CAPTURED_STEPS if worker.case.form.cuda_graph else PROOF_STEPS
        for index in range(steps):
            self.steps.append(self._step(index))
        self.about["reference"] = f"the model in one process, {self._exchange_in_words()}, " + (
            in_words(worker.workload, worker.rule.optimiser)
        )

    def _timed_step(self) -> FrameworkStep:
        """One step as it is timed, on the samples of the first step in float64."""
        worker = self.worker
        worker.build()
        worker.model.train()
        # Drawn before random numbers are switched off.
        own = own_minibatches(worker, minibatches_of(worker, 0))
        with randomness_off(worker, own[0]):
            worker.rehearse(own)
            loss = worker.train_step(own)
        approximation = worker.approximation()
        losses = {str(worker.shard): loss.detach()}
        parameters = sum(each.numel() for each in worker.module.parameters())
        # The state of an approximation is rank 0's.
        if approximation is None and two_may_follow(worker.place, parameters):
            self.timed_at = 1
            losses = _of_all_ranks(losses, worker.place.world_size)
        return FrameworkStep(self._gradients(self.timed_at), {}, {}, {}, losses, approximation)

    def _step(self, index: int) -> FrameworkStep:
        """A step in float64."""
        worker = self.worker
        own = own_minibatches(worker, [wide(batch) for batch in minibatches_of(worker, index)])
        with NoRandomness():
            worker.prepare(own)
        if index == 0:
            self.approximation = worker.approximation()
        worker.module.zero_grad(set_to_none=True)
        with NoRandomness(), Float64Convolutions():
            worker.train_step(own)
        parameters = self._aside(dict(worker.module.named_parameters()))
        buffers = {name: each.detach().clone() for name, each in worker.module.named_buffers()}
        rates = rates_of(worker.rule.optimiser, worker.rule.scheduler)
        return FrameworkStep(self._gradients(), parameters, buffers, rates)

    def _gradients(self, keeper: int = 0) -> Shelf:
        return self._aside(
            {
                name: parameter.grad
                for name, parameter in self.worker.module.named_parameters()
                if parameter.grad is not None
            },
            keeper,
        )

    def _aside(self, tensors: Mapping[str, torch.Tensor], keeper: int = 0) -> Shelf:
        """Takes the fingerprint of tensors, and puts them aside on one rank. Ranks gather them one
        by one, where they hold parts."""
        shelf, fingerprint = Shelf(), TensorFingerprint()
        for name in sorted(tensors):
            gathered = whole(tensors[name].detach())
            fingerprint.add(name, gathered)
            if self.worker.place.rank == keeper:
                shelf.put(name, gathered)
        self.fingerprints.append(fingerprint.hexdigest())
        return shelf

    def _exchange_in_words(self) -> str:
        batch = "the shards together" if self.worker.synchronised else "the shards one by one"
        approximated = ", by PowerSGD written out" if self.approximation else ""
        return f"{batch}, the mean of their gradients{approximated}"


def _of_all_ranks(losses: Tensors, ranks: int) -> Tensors:
    """The losses of all shards, on the host."""
    own = {name: loss.cpu() for name, loss in losses.items()}
    gathered: list[Tensors] = [{} for _ in range(ranks)]
    dist.all_gather_object(gathered, own)
    # Of ranks that compute a shard together, the first's.
    return {name: loss for of_rank in reversed(gathered) for name, loss in of_rank.items()}
