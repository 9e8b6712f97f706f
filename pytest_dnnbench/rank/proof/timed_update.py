"""The part of a pipeline's proof in the types that are timed: one run of one update per stage at
least. Compared are the gradients that reached the optimiser, and the losses."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from pytest_dnnbench.rank.proof.arithmetic import widened_by_type
from pytest_dnnbench.rank.proof.comparison import Comparison
from pytest_dnnbench.rank.proof.heap import give_back_memory
from pytest_dnnbench.rank.proof.pipeline_part import PipelinePart, Ran
from pytest_dnnbench.rank.proof.proven_pipeline import (
    Assembled,
    Checked,
    Proven,
    trained,
    update_size,
)
from pytest_dnnbench.rank.proof.shared_reference import MadeBatches, SharedReference
from pytest_dnnbench.rank.proof.shelf import Shelf, put_aside
from pytest_dnnbench.rank.proof.unprovable import MOST_BOUND
from pytest_dnnbench.rank.workloads.batches import wide
from pytest_dnnbench.rank.workloads.workload import Batch


class TimedUpdate(PipelinePart):
    """That run."""

    keeps_first = True

    def __init__(self, proven: Proven, assembled: Assembled, checked: Checked) -> None:
        self.arithmetic = checked.arithmetic
        self.optimiser = proven.settings
        self.is_uncertain = False
        """On the reference's rank, once compared: whether rounding may make anything of the
        gradients of a stage."""
        self._arrived: dict[int, Shelf] = {}
        # Under SGD, as the reference: a stage may update before another has its first gradients.
        runtime = assembled(checked.take_stages(), proven.settings, proven.autocast)
        runtime.observe_updates(self._keep)
        batches = [batch() for batch in _batches(proven)]
        losses = trained(runtime, proven.schedule, batches)
        super().__init__(proven, Ran.of(runtime, checked.owned, [losses]))
        runtime.close()
        del runtime
        give_back_memory()

    @property
    def tells_certainty(self) -> bool:
        """Whether the timed types are fine enough for gradients ever to be certain in them."""
        return self.arithmetic.factor * self.arithmetic.unit <= MOST_BOUND

    def _keep(self, gradients: Mapping[int, Mapping[str, torch.Tensor]]) -> None:
        for stage, named in gradients.items():
            if stage not in self._arrived:
                self._arrived[stage] = put_aside(named)

    @property
    def runs(self) -> Sequence[MadeBatches]:
        """As PipelinePart.runs."""
        return [[partial(_widened, batch) for batch in _batches(self.proven)]]

    def compared(self, shared: SharedReference) -> Comparison:
        """As PipelinePart.compared."""
        comparison, name = Comparison(), self.arithmetic.name
        self.is_uncertain = bool(shared.uncertain_stages)
        for stage, answer in shared.first_gradients().items():
            gradients: Mapping[str, torch.Tensor] = self._arrived.get(stage, {})
            comparison.add(
                f"gradients in {name}",
                gradients,
                answer.expected,
                widened_by_type(answer.bounds, gradients, answer.expected),
                f"stage {stage} in the timed run",
            )
        self.compare_losses(comparison, f"loss in {name}", 0, shared, "in the timed run")
        return comparison


def _batches(proven: Proven) -> MadeBatches:
    return [partial(proven.batch, number) for number in range(update_size(proven.schedule))]


def _widened(made: Callable[[], Batch]) -> Batch:
    return wide(made())
