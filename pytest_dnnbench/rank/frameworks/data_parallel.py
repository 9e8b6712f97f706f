"""What all data-parallel frameworks share: each rank holds the whole model and steps on its own
part of the batch.

A framework of this kind is a subclass that joins its ranks and wraps model and optimiser; see
ddp.py.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.messages import Correctness
from pytest_dnnbench.rank import data, group, reference
from pytest_dnnbench.rank.data import Batch
from pytest_dnnbench.rank.models import build_model
from pytest_dnnbench.rank.worker import Step, Worker

PROOF_STEPS = 2
"""The second step is wrong if momentum, buffers or the first update were."""

PROOF_TOLERANCE = 1e-9
"""In float64 the reference differs by the order of a few sums: about 1e-15, amplified by BatchNorm
over few values."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """How far averaged gradients may be off: by `relative` times the larger of `floor` and the
    tensor's largest."""

    relative: float
    floor: float


class DataParallelWorker(Worker):
    """A rank with a whole copy of the model. Subclasses say how ranks are joined and how gradients
    are averaged."""

    passes = 1
    """Minibatches whose gradients are averaged on this rank before they are exchanged: each has its
    own backward."""

    proof_tolerance = PROOF_TOLERANCE
    rounding: Rounding | None = None
    """Set where the exchange of gradients rounds on purpose. The proof then holds the averaged
    gradients to this bound, and parameters and buffers, as strictly as ever, to what follows from
    the gradients that arrived."""

    def connect(self) -> None:
        """Joins torch.distributed's process group; a framework with a group of its own overrides
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
        """The module and optimiser that a training step uses, made equal to rank 0's on every
        rank."""

    def build(self) -> None:
        """Makes the model in single precision (bf16 is autocast) with weights that differ from rank
        to rank."""
        self._build(torch.float32)

    def _build(self, dtype: torch.dtype) -> None:
        self.module = self._fresh_module(self.place.rank, dtype)
        plain = torch.optim.SGD(
            self.module.parameters(),
            lr=self.request.learning_rate,
            momentum=self.request.momentum,
            weight_decay=self.request.weight_decay,
        )
        self.model, self.optimizer = self.wrap(self.module, plain)

    def _fresh_module(self, rank: int, dtype: torch.dtype) -> nn.Module:
        torch.manual_seed(self.case.seed + rank)
        return build_model(self.request.model, self.case.image_size).to(self.device, dtype)

    def run(self, steps: int) -> Iterator[Step]:
        """As Worker.run; every rank completes every step."""
        train = self.case.phase == "train"
        self.model.train(train)
        batches = data.batches(
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
        """Updates the weights; the backward pass has waited for the averaged gradients."""
        self.own_work.alone()
        self.optimizer.step()

    def _backward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.own_work.alone()
        with self._autocast(images):
            loss = cross_entropy(self.model(images), labels)
            if self.passes > 1:
                loss = loss / self.passes
        self.own_work.together()
        loss.backward()  # type: ignore[no-untyped-call] # torch's gap
        return loss.detach()

    def validate_step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Forward and loss, in evaluation mode and without gradients: both asserted, for a slip
        would be slow."""
        with torch.no_grad(), self._autocast(images):
            assert not self.module.training
            assert not torch.is_grad_enabled()
            return cross_entropy(self.module(images), labels)

    def _autocast(self, images: torch.Tensor) -> torch.autocast:
        wanted = self.case.precision == "bf16" and images.dtype == torch.float32
        return torch.autocast(self.device.type, torch.bfloat16, enabled=wanted)

    @property
    def samples_per_update(self) -> int:
        """As Worker.samples_per_update: the minibatches of all ranks."""
        passes = self.passes if self.case.phase == "train" else 1
        return self.case.batch_size * passes * self.place.world_size

    def fingerprint(self) -> str:
        """Of all parameters: averaged gradients make the same step on every rank, bit for bit."""
        return reference.digest(
            {name: parameter.detach() for name, parameter in self.module.named_parameters()}
        )

    def validation(self) -> tuple[int, int] | None:
        """Correct and all images of the whole validation set with rank 0's weights, on rank 0,
        after training."""
        files = self.request.data
        if files is None or self.case.phase != "train" or self.place.rank != 0:
            return None
        digits, correct = data.Digits(files, "validate"), 0
        self.module.eval()
        with torch.no_grad(), self._autocast(digits.images):
            for images, labels in zip(
                digits.images.split(256), digits.labels.split(256), strict=True
            ):  # type: ignore[no-untyped-call] # torch's gap
                guess = self.module(images.to(self.device)).argmax(1)
                correct += int((guess == labels.to(self.device)).sum())
        return correct, len(digits)

    def data_facts(self) -> dict[str, Scalar]:
        """Source and split of the data."""
        files = self.request.data
        return (
            {"source": "synthetic"} if files is None else {"source": "mnist", "split": files.split}
        )

    # The proof
    # ----------------------------------------------------------------------------------------------------

    def prove(self) -> Correctness:
        """Training: PROOF_STEPS steps in float64 against the reference on the same global batch,
        parameter by parameter. Validation: the logits in evaluation mode against a plain module
        with rank 0's weights."""
        self._build(torch.float64)
        reference.without_randomness(self.module)
        return self._prove_training() if self.case.phase == "train" else self._prove_validation()

    def _prove_training(self) -> Correctness:
        self.model.train()
        expected = (
            reference.Reference(self._reference_module(), self.request)
            if self.place.rank == 0
            else None
        )
        seen: dict[str, float] = {"gradients": 0.0, "parameters": 0.0, "buffers": 0.0}
        tolerances = dict.fromkeys(seen, self.proof_tolerance)
        if self.rounding:
            tolerances["gradients"] = self.rounding.relative
        failures: list[str] = []
        fingerprints: list[str] = []
        for index in range(PROOF_STEPS):
            shards = [
                self._proof_batch(shard, index)
                for shard in range(self.place.world_size * self.passes)
            ]
            self.train_step(shards[self.place.rank * self.passes :][: self.passes])
            gradients = {
                name: parameter.grad.detach()
                for name, parameter in self.module.named_parameters()
                if parameter.grad is not None
            }
            parameters = reference.detached(self.module.named_parameters())
            fingerprints += [reference.digest(gradients), reference.digest(parameters)]
            if expected is None:
                continue
            wanted = expected.step(
                shards, self.passes, arrived=gradients if self.rounding else None
            )
            for what, got, want in (
                ("gradients", gradients, wanted.gradients),
                ("parameters", parameters, wanted.parameters),
                ("buffers", dict(self.module.named_buffers()), wanted.buffers),
            ):
                floor = self.rounding.floor if self.rounding and what == "gradients" else 1.0
                found, where = reference.deviation(got, want, floor)
                seen[what] = max(seen[what], found)
                if not found <= tolerances[what]:
                    failures.append(f"{what} of step {index}: {where} deviates by {found:.3g}")
        return Correctness(
            deviations=seen if expected is not None else {},
            tolerances=tolerances if expected is not None else {},
            failures=tuple(failures),
            about={
                "reference": "one process, the mean of the shards' gradients, SGD written out",
                "dtype": "float64",
                "steps": PROOF_STEPS,
                "batch_size": self._proof_size,
                "digest": " ".join(fingerprints),
            },
        )

    def _prove_validation(self) -> Correctness:
        self.module.eval()
        images, _ = self._proof_batch(0, 0)
        with torch.no_grad():
            got = {"logits": self.module(images)}
            want = {"logits": self._reference_module().eval()(images)}
        found, _ = reference.deviation(got, want)
        wrong = not found <= self.proof_tolerance
        return Correctness(
            deviations={"logits": found},
            tolerances={"logits": self.proof_tolerance},
            failures=(f"logits of rank {self.place.rank} deviate by {found:.3g}",) if wrong else (),
            about={
                "reference": "a plain module with rank 0's weights, in evaluation mode",
                "dtype": "float64",
                "batch_size": self._proof_size,
                "digest": reference.digest(got),
            },
        )

    def _reference_module(self) -> nn.Module:
        return reference.without_randomness(self._fresh_module(0, torch.float64))

    @property
    def _proof_size(self) -> int:
        return max(2, min(self.case.batch_size, 4 if self.case.channels == 1 else 2))

    def _proof_batch(self, shard: int, index: int) -> Batch:
        return data.synthetic_batch(
            self.case, shard, index, self.device, size=self._proof_size, dtype=torch.float64
        )
