"""What the proof of a data-parallel framework needs of its worker, and what it is proven on."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import nn

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank.buffers import Buffers
from pytest_dnnbench.rank.proof.arithmetic import Arithmetic, coarsest
from pytest_dnnbench.rank.proof.conditions import ProofCopies, check_room
from pytest_dnnbench.rank.proof.exchange_rounding import Rounding
from pytest_dnnbench.rank.proof.low_rank import LowRank
from pytest_dnnbench.rank.proof.own_arithmetic import own_arithmetic
from pytest_dnnbench.rank.proof.randomness import NoRandomness
from pytest_dnnbench.rank.step_forms import graphs_compiled, laid_out, without_randomness_compiled
from pytest_dnnbench.rank.update_rule import UpdateRule
from pytest_dnnbench.rank.workloads.batches import synthetic_batch
from pytest_dnnbench.rank.workloads.image_models import weight_types
from pytest_dnnbench.rank.workloads.workload import Batch, Workload


class ProvenWorker(Protocol):
    """What the proof needs of a worker. `model` wraps `module` as in training, and `rule` updates
    it; `local` is the module as a rank runs it by itself, compiled where the case says so."""

    place: Place
    case: Case
    request: RunRequest
    device: torch.device
    module: nn.Module
    local: nn.Module
    model: nn.Module
    rule: UpdateRule
    passes: int
    rounding: Rounding | None
    shares_buffers: bool
    exchanges_zeros: bool
    synchronised: bool
    computes_in: Sequence[torch.dtype]

    @property
    def shards(self) -> int:
        """Parts of a step's samples."""

    @property
    def shard(self) -> int:
        """This rank's part."""

    @property
    def workload(self) -> Workload:
        """What is trained."""

    @property
    def proof_copies(self) -> ProofCopies:
        """Copies of the weights without which the proof cannot be."""

    def build(self) -> None:
        """Makes module, model and optimiser as they are timed."""

    def build_wide(self) -> None:
        """Makes them in double precision, in place of the former ones."""

    def give_up(self) -> None:
        """Gives up what was built, and its memory."""

    def fresh_module(self, rank: int, wide: bool = False) -> nn.Module:
        """The case's model with the first weights of a rank."""

    def computing(self) -> torch.autocast:
        """The context of a forward pass of the model as it is built."""

    def prepare(self, minibatches: Sequence[Batch]) -> None:
        """What comes before the first step of the framework."""

    def approximation(self) -> LowRank | None:
        """The approximation of its exchange, written out, as it is before the first step."""

    def rehearse(self, minibatches: Sequence[Batch]) -> None:
        """Runs what goes before a step as it is timed; weights and buffers stay."""

    def train_step(self, minibatches: Sequence[Batch]) -> torch.Tensor:
        """One step of the framework."""

    def evaluate(self, batch: Batch) -> Any:
        """The model's output, without gradients, as a step of validation computes it."""


def randomness_off(worker: ProvenWorker, batch: Batch) -> AbstractContextManager[object]:
    """The context in which this worker's step draws no random numbers."""
    if worker.local is worker.module:
        return NoRandomness()

    def passes() -> None:
        held = Buffers(worker.module)
        with held.borrowed(held.copies()), torch.no_grad(), worker.computing():
            worker.workload.forward(worker.module, batch[0])

    return without_randomness_compiled(worker.module, passes)


def arithmetic_of(worker: ProvenWorker, batch: Batch) -> Arithmetic:
    """The arithmetic of the user's own model as it is timed, and of the types that the framework
    casts to; called before anything is built."""
    model = worker.fresh_module(0).train(worker.case.phase == "train")
    check_room(worker.request.model, model, worker.place, worker.proof_copies)
    own = own_arithmetic(worker.workload, model, batch, worker.case.precision, worker.computing)
    cast = coarsest(worker.computes_in)
    return max(own, cast, key=lambda arithmetic: arithmetic.unit)


def about_of(worker: ProvenWorker, arithmetic: Arithmetic) -> dict[str, Scalar]:
    """How the step is checked; called while the worker is built as it is timed."""
    form = worker.case.form
    about: dict[str, Scalar] = {
        "batch_size": proof_size(worker),
        "timed arithmetic": arithmetic.name,
        "weights": weight_types(worker.module),
    }
    if form.changed:
        about["form"] = form.label
    if form.cuda_graph:
        about["captured"] = f"the step in {arithmetic.name}, and all but the first in float64"
    if form.compile:
        about["compiled"] = f"the step in {arithmetic.name}; float64 runs as the model is written"
        about["compiled graphs"] = graphs_compiled()
        if not about["compiled graphs"]:
            raise WrongResult(
                "torch.compile compiled nothing of the model, so a step of it would be timed as it"
                " is written: look for torch.compiler.disable in the model, and for"
                " TORCHDYNAMO_DISABLE in the environment"
            )
    return about


def proof_size(worker: ProvenWorker) -> int:
    """Samples in a minibatch of the proof, also of a case of fewer: batch normalisation over two
    values is so steep that rounding may turn its outputs around."""
    return worker.workload.proof_size


def minibatches_of(worker: ProvenWorker, index: int) -> list[Batch]:
    """The minibatches of a step, `passes` for each shard, shard by shard."""
    shards = worker.shards * worker.passes
    return [proof_batch(worker, shard, index) for shard in range(shards)]


def own_minibatches(worker: ProvenWorker, shards: list[Batch]) -> list[Batch]:
    """This rank's minibatches, in the form of the case; the reference takes them plain."""
    own = shards[worker.shard * worker.passes :][: worker.passes]
    return [laid_out(batch, worker.case.form) for batch in own]


def proof_batch(worker: ProvenWorker, shard: int, index: int) -> Batch:
    """A minibatch in the types of the workload."""
    return synthetic_batch(
        worker.workload,
        shard,
        index,
        worker.device,
        size=proof_size(worker),
        seed=worker.case.seed,
        proof=True,
    )
