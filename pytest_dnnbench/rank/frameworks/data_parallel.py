"""The common part of the data-parallel frameworks: each rank holds the whole model and steps on its
share of the batch.

A framework of this kind is a subclass that joins its ranks and wraps model and optimiser; see
ddp.py. Not here: the proof of its step (rank/proof/data_parallel.py).
"""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any

import torch
from torch import nn

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.messages import Correctness, Place, RunRequest
from pytest_dnnbench.rank import group, rank_phase
from pytest_dnnbench.rank.block_trial import copy_changed_inputs, try_blocks
from pytest_dnnbench.rank.frameworks.workload_worker import WorkloadWorker
from pytest_dnnbench.rank.proof.conditions import ProofCopies, proof_conditions, room_for_draws
from pytest_dnnbench.rank.proof.data_parallel import prove_training
from pytest_dnnbench.rank.proof.data_parallel_validation import prove_validation
from pytest_dnnbench.rank.proof.exchange_rounding import Rounding
from pytest_dnnbench.rank.proof.fingerprint import digest
from pytest_dnnbench.rank.proof.heap import give_back_memory
from pytest_dnnbench.rank.proof.low_rank import LowRank
from pytest_dnnbench.rank.proof.proven_worker import proof_batch
from pytest_dnnbench.rank.proof.recheck import recheck
from pytest_dnnbench.rank.proof.remembered_draws import RememberedDraws
from pytest_dnnbench.rank.step_forms import compiled, form_module, fuse, laid_out
from pytest_dnnbench.rank.update_rule import UpdateRule, has_own_update, optimiser_for
from pytest_dnnbench.rank.whole import whole
from pytest_dnnbench.rank.worker import Step
from pytest_dnnbench.rank.workloads import batches
from pytest_dnnbench.rank.workloads.batches import wide
from pytest_dnnbench.rank.workloads.checks import blocks_of, model_of, samples_of
from pytest_dnnbench.rank.workloads.image_models import widen
from pytest_dnnbench.rank.workloads.structure import mapped
from pytest_dnnbench.rank.workloads.workload import Batch, DataShare


class DataParallelWorker(WorkloadWorker):
    """A rank with a whole copy of the model. Subclasses say how ranks are joined and how gradients
    are averaged."""

    passes = 1
    """Minibatches whose gradients this rank averages before the ranks exchange them. Each has its
    own backward pass."""

    shares_buffers = False
    """Whether every rank starts a training step from rank 0's buffers, and not from its own."""

    exchanges_zeros = False
    """Whether parameters without a gradient are updated by a gradient of zeros."""

    rounding: Rounding | None = None
    """Set where the exchange of gradients rounds on purpose. The proof then allows the averaged
    gradients this rounding. It checks parameters and buffers, as strictly as without, against the
    update by the gradients that arrived."""

    synchronised = False
    """Whether batch normalisation takes its statistics of the samples of all ranks together."""

    runs_alone = True
    """Whether a rank can run the model without the others."""

    has_own_group = False
    """Whether `connect` joins another group of ranks than torch.distributed's."""

    exchanges_on_arrival = False
    """Whether gradients that have come by then are exchanged together, at moments that the
    framework chooses: what a step exchanges then depends on when they come."""

    wraps_blocks = False
    """Whether `wrap` wraps blocks, which then may not change their inputs in place."""

    units: Sequence[str] = ()
    """The blocks that can be wrapped: no other part of the model uses their weights. Of a framework
    that wraps blocks, set before `wrap` is called."""

    rewritten: Sequence[str] = ()
    """The replaced layers whose outputs are changed in place; set before `wrap` is called."""

    computes_in: Sequence[torch.dtype] = ()
    """Types that the framework itself casts weights or gradients to, when it is timed."""

    wide = False
    """Whether the model is built in double precision, for the proof."""

    _copied_inputs: Sequence[str] = ()
    """Blocks that would change their inputs in place, and get copies (block_trial.py)."""

    _samples = 0
    """In a minibatch of this rank."""

    _batches: Iterator[Batch] | None = None
    """Made in the first run, and used up in the next ones."""

    def __init__(self, place: Place, request: RunRequest) -> None:
        super().__init__(place, request)
        self.passes = request.case.form.accumulate

    def connect(self) -> None:
        """Joins torch.distributed's process group. A framework with a group of its own overrides
        this."""
        group.join(self.place)

    def close(self) -> None:
        """Leaves the process group."""
        group.leave()

    def align(self) -> None:
        """Waits for all ranks."""
        group.meet()

    @abstractmethod
    def wrap(
        self, module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The module and optimiser of a training step, made equal to rank 0's on every rank."""

    def build(self) -> None:
        """Makes the model in the types that its factory gives it (bf16 is autocast), with weights
        that differ from rank to rank: `wrap` has to make them equal."""
        self._build(wide=False)

    def build_wide(self) -> None:
        """As `build`, in double precision, for the proof. What was built before is given up
        first."""
        self.give_up()
        self._build(wide=True)

    def give_up(self) -> None:
        """Gives up what was built, and its memory."""
        for name in ("module", "local", "model", "optimizer", "rule"):
            self.__dict__.pop(name, None)
        give_back_memory()

    def _build(self, *, wide: bool) -> None:
        self.wide = wide
        self.module = self.converted(self.fresh_module(self.place.rank, wide))
        self._copied_inputs = self._prepare_blocks()
        form_module(self.module, self.case.form, self.workload)
        # What computes a rank's own forward pass: the module itself, or its compiled form.
        self.local = self.module if wide else compiled(self.module, self.case.form)
        wrapped = self.wrap(self.local, self.fresh_optimizer(self.module))
        if not isinstance(wrapped, tuple) or len(wrapped) != 2:
            raise UsageError(
                f"{type(self).__name__}.wrap returned {type(wrapped).__name__}: let it return the"
                " model and its optimiser, both as they are where it changes neither"
            )
        self.model, self.optimizer = wrapped
        self.rule = UpdateRule(self.workload, self.module, self.optimizer)

    def replaced_layers(self) -> Sequence[str]:
        """The layers of the model whose outputs `wrap` lets come from functions of torch's, which
        may not be changed in place."""
        return ()

    def _prepare_blocks(self) -> list[str]:
        """Finds out what the workload's blocks and the replaced layers do, where that matters to
        how they are wrapped. Blocks that would change their inputs in a step of training, and may
        not, get copies. Returns their names."""
        form, train = self.case.form, self.case.phase == "train"
        wraps = self.wraps_blocks or (form.checkpointing and train)
        blocks = blocks_of(self.workload, self.module) if wraps else []
        layers = self.replaced_layers()
        if not blocks and not layers:
            return []
        batch = proof_batch(self, 0, 0)
        inputs, _ = wide(batch) if self.wide else batch

        def run(module: nn.Module) -> Any:
            with self.computing():
                return self.workload.forward(module, mapped(inputs, torch.clone))

        parts = list(dict.fromkeys([*blocks, *layers]))
        shown = try_blocks(self.module, self.workload, parts, run)
        self.units = [name for name in blocks if name not in shown.shared]
        if not train:
            return []
        self.rewritten = [name for name in layers if name in shown.rewritten]
        return copy_changed_inputs(self.module, self.workload, shown, run)

    def converted(self, module: nn.Module) -> nn.Module:
        """The model with layers of the framework's own in place of others, whose weights and
        buffers they have, under the same names."""
        return module

    def prepare(self, minibatches: Sequence[Batch]) -> None:
        """Does once, before the first step on these minibatches, what makes all steps alike; called
        before every step of training."""

    def approximation(self) -> LowRank | None:
        """What the exchange approximates on purpose, written out, before the first step of the
        model that was built last; None where it gives the mean. Called after `prepare`."""
        return None

    def fresh_optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """The workload's optimiser of a module, in the form of the case."""
        optimiser = optimiser_for(self.workload, module, self.request)
        return fuse(optimiser) if self.case.form.fused else optimiser

    def fresh_module(self, rank: int, wide: bool = False) -> nn.Module:
        """The case's model with the first weights of a rank, in its own types or in double
        precision."""
        model = self.model_from(self.case.seed + rank).to(self.device)
        return widen(model) if wide else model

    def _on_host(self) -> nn.Module:
        return model_of(self.workload).train()

    def run(self, steps: int) -> Iterator[Step]:
        """As Worker.run; every rank completes every step."""
        train = self.case.phase == "train"
        self.model.train(train)
        if self._batches is None:
            with rank_phase.during("data"):
                self._batches = self._new_batches()
        minibatches = self._batches
        for index in range(steps):
            if train:
                own = list(islice(minibatches, self.passes))
                yield Step(index, self._count(own), self.train_step(own))
            else:
                batch = next(minibatches)
                yield Step(index, self._count([batch]), self.validate_step(batch))

    @property
    def shards(self) -> int:
        """Parts of a step's samples: one for each rank, unless ranks share them all."""
        return self.place.world_size

    @property
    def shard(self) -> int:
        """This rank's."""
        return self.place.rank

    @property
    def shard_size(self) -> int:
        """Samples in a minibatch of a shard."""
        return self.case.batch_size

    def _new_batches(self) -> Iterator[Batch]:
        case, pinned = self.case, self.device.type == "cuda"
        share = DataShare(case.phase, self.shard_size, self.shard, self.shards, case.seed, pinned)
        form = case.form
        return (laid_out(b, form) for b in batches.batches(self.workload, share, self.device))

    def _count(self, minibatches: Sequence[Batch]) -> int:
        """This rank's samples in its minibatches."""
        samples = [samples_of(self.workload, inputs) for inputs, _ in minibatches]
        self._samples = samples[0]
        return sum(samples)

    def train_step(self, minibatches: Sequence[Batch]) -> torch.Tensor:
        """Forward and backward of each minibatch (`passes` of them), exchange of gradients, update.

        Returns the detached mean loss of this rank's minibatches.
        """
        self.prepare(minibatches)
        self.optimizer.zero_grad()
        losses = []
        for number, batch in enumerate(minibatches, 1):
            with self.exchanging(number == len(minibatches)):
                losses.append(self._backward(batch))
        self.update()
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def exchanging(self, last: bool) -> AbstractContextManager[object]:
        """The context of one minibatch's passes: of the `last` of a step, in whose backward pass
        gradients are exchanged, or of one before it."""
        return nullcontext()

    def update(self) -> None:
        """Updates the weights. The backward pass has waited for the averaged gradients."""
        self.own_work.alone()
        self.rule.update()

    def _backward(self, batch: Batch) -> torch.Tensor:
        self.own_work.alone()
        with self.computing():
            loss = self.workload.loss_of(self.model, batch)
            if self.passes > 1:
                loss = loss / self.passes
        self.own_work.together()
        loss.backward()  # type: ignore[no-untyped-call] # torch's gap
        return loss.detach()

    def rehearse(self, minibatches: Sequence[Batch]) -> None:
        """Runs what has to run before a step of these minibatches runs as it is timed, and leaves
        weights and buffers as they are: nothing, unless the step is captured (single.py)."""

    def computing(self) -> torch.autocast:
        """The context of a forward pass of the model as it is built."""
        return self.autocast(torch.float64 if self.wide else torch.float32)

    def evaluate(self, batch: Batch) -> Any:
        """The model's output, without gradients, as validate_step computes it."""
        with torch.no_grad(), self.computing():
            return self.workload.forward(self.local, batch[0])

    def validate_step(self, batch: Batch) -> torch.Tensor:
        """Forward and loss, in evaluation mode and without gradients. Both are asserted: without
        them the step would be slower, and nothing else would show it."""
        with torch.no_grad(), self.computing():
            assert not self.module.training
            assert not torch.is_grad_enabled()
            return self.workload.loss_of(self.local, batch)

    @property
    def samples_per_update(self) -> int:
        """As Worker.samples_per_update: the samples in the minibatches of all ranks. Called after
        the run."""
        passes = self.passes if self.case.phase == "train" else 1
        return self._samples * passes * self.shards

    def fingerprint(self) -> str:
        """As Worker.fingerprint, of all parameters: averaged gradients make the same step on every
        rank, bit for bit."""
        # One by one: of a model that ranks share out, none holds the whole.
        digests = [
            digest({name: whole(parameter.detach())})
            for name, parameter in self.module.named_parameters()
        ]
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()

    def validation(self) -> tuple[int, int] | None:
        """As Worker.validation, after training: rank 0 takes the whole validation set, with its own
        weights, together with the others where it needs them."""
        if self.case.phase != "train" or (self.runs_alone and self.place.rank != 0):
            return None
        self.module.eval()
        with torch.no_grad():
            counts = self.workload.validate(self.module, self.device, self.computing())
        return counts if self.place.rank == 0 else None

    def details(self) -> dict[str, object]:
        """As Worker.details: the workload's, and the parts that work on copies."""
        copies = {"copied_inputs": self._copied_inputs, "copied_outputs": self.rewritten}
        return {**self.workload.details(), **{key: names for key, names in copies.items() if names}}

    @property
    def proof_copies(self) -> ProofCopies:
        """What the proof of this framework cannot do without. How much an optimiser of the user's
        keeps is not known."""
        if self.case.phase != "train":
            return ProofCopies(reference=1.0, steps=1.0)
        reference = 3.0 if has_own_update(self.workload) else 4.0
        return ProofCopies(reference, self.step_copies)

    @property
    def step_copies(self) -> float:
        """Float64 copies of the weights that a rank holds in a step of the proof, at least: weights
        and gradients, and the momentum of SGD."""
        has_momentum = self.request.momentum and not has_own_update(self.workload)
        return 3.0 if has_momentum else 2.0

    def recheck(self) -> str | None:
        """As Worker.recheck: of the outputs of a forward pass."""
        return recheck(self)

    def prove(self) -> Correctness:
        """As Worker.prove: in the types that are timed, and in float64."""
        self.drawing = RememberedDraws(room_for_draws(self.place))
        with proof_conditions(self.request.model, self._on_host, self.place, self.proof_copies):
            return prove_training(self) if self.case.phase == "train" else prove_validation(self)
