"""The common part of the data-parallel frameworks: each rank holds the whole model and steps on its
share of the batch.

A framework of this kind is a subclass that joins its ranks and wraps model and optimiser; see
ddp.py. Not here: the proof of its step (data_parallel_proof.py).
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy

from pytest_dnnbench.messages import Correctness
from pytest_dnnbench.rank import data, group, reference
from pytest_dnnbench.rank.data import Batch
from pytest_dnnbench.rank.frameworks.data_parallel_proof import (
    Rounding,
    prove_training,
    prove_validation,
)
from pytest_dnnbench.rank.frameworks.image_worker import ImageWorker
from pytest_dnnbench.rank.models import build_model, seed, widen
from pytest_dnnbench.rank.proof_conditions import proof_conditions
from pytest_dnnbench.rank.worker import Step

VALIDATION_IMAGES = 256
"""In the minibatches of the final validation."""


class DataParallelWorker(ImageWorker):
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

    _batches: Iterator[Batch] | None = None
    """Made in the first run, and used up in the next ones."""

    def connect(self) -> None:
        """Joins torch.distributed's process group. A framework with a group of its own overrides
        this."""
        group.join(self.place)

    def close(self) -> None:
        """Leaves the process group."""
        group.leave()

    def align(self) -> None:
        """Waits for all ranks."""
        dist.barrier()

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
        for name in ("module", "model", "optimizer"):
            self.__dict__.pop(name, None)
        self._build(wide=True)

    def _build(self, *, wide: bool) -> None:
        self.module = self.fresh_module(self.place.rank, wide)
        plain = torch.optim.SGD(
            self.module.parameters(),
            lr=self.request.learning_rate,
            momentum=self.request.momentum,
            weight_decay=self.request.weight_decay,
        )
        self.model, self.optimizer = self.wrap(self.module, plain)

    def fresh_module(self, rank: int, wide: bool = False) -> nn.Module:
        """The case's model with the first weights of a rank, in its own types or in double
        precision."""
        seed(self.case.seed + rank)
        model = self._on_host().to(self.device)
        return widen(model) if wide else model

    def _on_host(self) -> nn.Module:
        return build_model(self.request.model, self.case.image_size)

    def run(self, steps: int) -> Iterator[Step]:
        """As Worker.run; every rank completes every step."""
        train = self.case.phase == "train"
        self.model.train(train)
        self._batches = batches = self._batches or data.batches(
            self.case, self.request.data, self.place.rank, self.place.world_size, self.device
        )
        for index in range(steps):
            if train:
                minibatches = list(islice(batches, self.passes))
                loss = self.train_step(minibatches)
                yield Step(index, sum(len(images) for images, _ in minibatches), loss)
            else:
                images, labels = next(batches)
                yield Step(index, len(images), self.validate_step(images, labels))

    def train_step(self, minibatches: Sequence[Batch]) -> torch.Tensor:
        """Forward and backward of each minibatch (`passes` of them), exchange of gradients, update.

        Returns the detached mean loss of this rank's minibatches.
        """
        self.optimizer.zero_grad()
        losses = [self._backward(images, labels) for images, labels in minibatches]
        self.update()
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def update(self) -> None:
        """Updates the weights. The backward pass has waited for the averaged gradients."""
        self.own_work.alone()
        self.optimizer.step()

    def _backward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.own_work.alone()
        with self.autocast(images.dtype):
            loss = cross_entropy(self.model(images), labels)
            if self.passes > 1:
                loss = loss / self.passes
        self.own_work.together()
        loss.backward()  # type: ignore[no-untyped-call] # torch's gap
        return loss.detach()

    def validate_step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Forward and loss, in evaluation mode and without gradients. Both are asserted: without
        them the step would be slower, and nothing else would show it."""
        with torch.no_grad(), self.autocast(images.dtype):
            assert not self.module.training
            assert not torch.is_grad_enabled()
            return cross_entropy(self.module(images), labels)

    @property
    def samples_per_update(self) -> int:
        """As Worker.samples_per_update: the images in the minibatches of all ranks."""
        passes = self.passes if self.case.phase == "train" else 1
        return self.case.batch_size * passes * self.place.world_size

    def fingerprint(self) -> str:
        """As Worker.fingerprint, of all parameters: averaged gradients make the same step on every
        rank, bit for bit."""
        return reference.digest(
            {name: parameter.detach() for name, parameter in self.module.named_parameters()}
        )

    def validation(self) -> tuple[int, int] | None:
        """As Worker.validation, after training: rank 0 takes the whole validation set, with its own
        weights."""
        files = self.request.data
        if files is None or self.case.phase != "train" or self.place.rank != 0:
            return None
        digits, right = data.Digits(files, "validate"), 0
        self.module.eval()
        with torch.no_grad(), self.autocast(digits.images.dtype):
            for images, labels in zip(
                torch.split(digits.images, VALIDATION_IMAGES),
                torch.split(digits.labels, VALIDATION_IMAGES),
                strict=True,
            ):
                guess = self.module(images.to(self.device)).argmax(1)
                right += int((guess == labels.to(self.device)).sum())
        return right, len(digits)

    def prove(self) -> Correctness:
        """As Worker.prove: in the types that are timed, and in float64."""
        with proof_conditions(self.request.model, self._on_host):
            return prove_training(self) if self.case.phase == "train" else prove_validation(self)
