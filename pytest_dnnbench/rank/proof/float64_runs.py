"""The part of a pipeline's proof in float64: two runs under SGD. Compared are parameters, buffers
and losses after each.

Two runs check the drain between them, and the stash right after it; what else their minibatches
prove says `proof_runs`. The learning rate is SLOWER times smaller than the case's: rounding would
grow from update to update otherwise, and a long pipeline makes many.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice

from torch import nn

from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.rank.proof.arithmetic import FLOAT64
from pytest_dnnbench.rank.proof.comparison import Comparison
from pytest_dnnbench.rank.proof.distance import Tensors
from pytest_dnnbench.rank.proof.float64_convolutions import Float64Convolutions
from pytest_dnnbench.rank.proof.heap import give_back_memory
from pytest_dnnbench.rank.proof.pipeline_part import PipelinePart, Ran
from pytest_dnnbench.rank.proof.proven_pipeline import Assembled, Proven, trained
from pytest_dnnbench.rank.proof.shared_reference import MadeBatches, SharedReference
from pytest_dnnbench.rank.proof.shelf import Shelf, put_aside
from pytest_dnnbench.rank.proof.unprovable import RANDOM, UNCERTAIN, is_random
from pytest_dnnbench.rank.whole import whole
from pytest_dnnbench.rank.workloads.batches import wide
from pytest_dnnbench.rank.workloads.workload import Batch

SLOWER = 1024.0
"""At the case's learning rate, efficientnet_b0 on 16 images multiplies a difference by 5 in every
update. At a 1024th of it, updates hardly do."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Left:
    """What a run left in a stage of this rank, put aside."""

    parameters: Shelf
    buffers: Tensors

    @classmethod
    def of(cls, module: nn.Module) -> "_Left":
        parameters = {name: whole(each.detach()) for name, each in module.named_parameters()}
        buffers = {name: each.clone() for name, each in module.named_buffers()}
        return cls(put_aside(parameters), buffers)


class Float64Runs(PipelinePart):
    """Those runs."""

    arithmetic = FLOAT64

    def __init__(
        self, proven: Proven, assembled: Assembled, owned: Sequence[Mapping[str, str]]
    ) -> None:
        rate = proven.settings.learning_rate / SLOWER
        self.optimiser = dataclasses.replace(proven.settings, learning_rate=rate)
        stages = [stage.train() for stage in proven.stages(wide=True)]
        runtime = assembled(stages, self.optimiser, nullcontext)
        del stages
        self._left: list[dict[int, _Left]] = []
        losses: list[Tensors] = []
        for batches in _runs(proven):
            with Float64Convolutions():
                losses.append(trained(runtime, proven.schedule, [batch() for batch in batches]))
            left = {stage: _Left.of(module) for stage, module in runtime.modules.items()}
            self._left.append(left)
        super().__init__(proven, Ran.of(runtime, owned, losses))
        runtime.close()
        del runtime
        give_back_memory()

    @property
    def runs(self) -> Sequence[MadeBatches]:
        """As PipelinePart.runs."""
        return _runs(self.proven)

    def compared(self, shared: SharedReference) -> Comparison:
        """As PipelinePart.compared. Raises WrongResult on the reference's rank where nothing can be
        proven of a stage."""
        comparison = Comparison()
        for number in range(len(self.runs)):
            self.follow_on(number + 1, shared)
            if uncertain := shared.uncertain_stages:
                raise WrongResult(_why_uncertain(self.proven, uncertain))
            self._compare_run(comparison, number, shared)
            shared.give_up(number)
        return comparison

    def _compare_run(self, comparison: Comparison, number: int, shared: SharedReference) -> None:
        parameters, buffers = shared.parameters(number), shared.buffers(number)
        when = f"after run {number}"
        for stage, left in self._left[number].items():
            of_stage = f"stage {stage} {when}"
            answer = parameters[stage]
            comparison.add("parameters", left.parameters, answer.expected, answer.bounds, of_stage)
            answer = buffers[stage]
            # A constant that the trace made is no buffer of the model.
            of_model = {
                name: each for name, each in left.buffers.items() if name in answer.expected
            }
            comparison.add("buffers", of_model, answer.expected, answer.bounds, of_stage)
        self.compare_losses(comparison, "loss", number, shared, when)


def _runs(proven: Proven) -> list[MadeBatches]:
    numbers = iter(range(sum(proven.proof_runs)))
    return [
        [partial(_widened, proven, number) for number in islice(numbers, minibatches)]
        for minibatches in proven.proof_runs
    ]


def _widened(proven: Proven, number: int) -> Batch:
    return wide(proven.small_batch(number))


def _why_uncertain(proven: Proven, stages: Sequence[int]) -> str:
    """Why nothing can be proven of some stages: a random model, or one that is ill-conditioned."""
    if is_random(proven.workload, proven.model(wide=True), _widened(proven, 0)[0]):
        return RANDOM
    return f"stage {stages[0]}: {UNCERTAIN}"
