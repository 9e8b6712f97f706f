"""A part of the proof of a pipeline's training: runs that have ended, what they left on this rank,
and the reference that follows them.

The runs come first, on all ranks. Then, or at the same time as that of another part, one rank runs
the reference (shared_reference.py), and every rank compares. Not here: the parts (timed_update.py,
float64_runs.py), which rank runs which reference (pipeline.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from pytest_dnnbench.rank.pipeline.sgd import Sgd
from pytest_dnnbench.rank.proof.arithmetic import Arithmetic
from pytest_dnnbench.rank.proof.comparison import Comparison
from pytest_dnnbench.rank.proof.distance import Tensors
from pytest_dnnbench.rank.proof.pipeline_reference import Measured, PipelineReference
from pytest_dnnbench.rank.proof.proven_pipeline import AnyRuntime, Proven
from pytest_dnnbench.rank.proof.shared_reference import MadeBatches, SharedReference


@dataclass(frozen=True, slots=True)
class Ran:
    """This rank in the runs of a part: of which stages, as which replica of them; by run, the
    losses by the number of the minibatch, its own and those of all ranks. `owned` says what each
    stage holds of the model."""

    owned: Sequence[Mapping[str, str]]
    stages: tuple[int, ...]
    replica: int
    losses: Sequence[Tensors]
    all_losses: Sequence[Mapping[int, float]]

    @classmethod
    def of(
        cls, runtime: AnyRuntime, owned: Sequence[Mapping[str, str]], losses: Sequence[Tensors]
    ) -> "Ran":
        """What a runtime says of it, at its end. Called on all ranks."""
        return cls(owned, tuple(runtime.modules), runtime.replica, losses, _of_all_ranks(losses))


def _of_all_ranks(losses: Sequence[Tensors]) -> list[dict[int, float]]:
    """By run, the losses of all ranks by the number of the minibatch."""
    own = [{int(name): float(loss) for name, loss in run.items()} for run in losses]
    gathered: list[list[dict[int, float]]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, own)
    return [
        {number: loss for of_rank in of_run for number, loss in of_rank.items()}
        for of_run in zip(*gathered, strict=True)
    ]


class PipelinePart(ABC):
    """Runs that have ended, and how they are compared.

    arithmetic     the types in which they ran
    optimiser      of the reference
    keeps_first    whether the gradients of each stage's first update are compared
    """

    arithmetic: Arithmetic
    optimiser: Sgd
    keeps_first = False

    def __init__(self, proven: Proven, ran: Ran) -> None:
        self.proven = proven
        self.ran = ran

    @property
    @abstractmethod
    def runs(self) -> Sequence[MadeBatches]:
        """The minibatches of each run, in double precision."""

    @abstractmethod
    def compared(self, shared: SharedReference) -> Comparison:
        """What the runs left, compared with the reference's, which has followed the first of
        them at least."""

    def follow(self, measured: Measured, holder: int, runs: int = 1) -> SharedReference:
        """The reference, which `holder` runs; the first runs are passed there. Called on all ranks,
        of which the others do not wait."""
        proven, reference = self.proven, None
        if proven.place.rank == holder:
            reference = PipelineReference(
                proven.model(wide=True),
                self.ran.owned,
                proven.schedule,
                self.optimiser,
                proven.workload.loss,
                self.arithmetic,
                measured=measured,
                keeps_first=self.keeps_first,
                clip_norm=proven.workload.clip_norm,
                forward=proven.workload.forward,
            )
        ran = self.ran
        shared = SharedReference(reference, ran.stages, ran.replica, proven.device, holder)
        self.follow_on(runs, shared)
        return shared

    def follow_on(self, runs: int, shared: SharedReference) -> None:
        """Lets the reference follow until it has followed so many runs."""
        for number in range(shared.runs, runs):
            shared.run(self.runs[number], self.ran.all_losses[number])

    def compare_losses(
        self, comparison: Comparison, kind: str, run: int, shared: SharedReference, when: str
    ) -> None:
        """Compares those of the reference's losses that this rank has as well."""
        expected, bounds = shared.losses(run)
        losses = self.ran.losses[run]
        rank = f"rank {self.proven.place.rank} {when}"
        same = {name: torch.tensor(expected[int(name)], dtype=torch.float64) for name in losses}
        within = {str(number): bound for number, bound in enumerate(bounds)}
        comparison.add(kind, losses, same, within, rank)
