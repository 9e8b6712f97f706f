"""The update of one stage by a workload's own optimiser and scheduler, and the clipping of
gradients over all stages of a pipeline.

Not here: SGD with the settings of the session (stash.py), the mean of gradients
(gradient_mean.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from pytest_dnnbench.rank.pipeline.sgd import Sgd
from pytest_dnnbench.rank.pipeline.turns import NO_TURNS, Turns
from pytest_dnnbench.rank.update_rule import CLIP_EPSILON, optimiser_for, scheduler_for
from pytest_dnnbench.rank.workloads.workload import Workload


@dataclass(frozen=True, slots=True)
class OwnRule:
    """The optimiser and the scheduler of a workload; `settings` where it has a scheduler only."""

    workload: Workload
    settings: Sgd


class OwnUpdate:
    """A workload's optimiser of one module, whose weights may lie in other memory at each step.

    The optimiser is made once, for the parameters of the module, which it keeps: they are no longer
    the module's afterwards. Each step lends them the memory of the weights to update.
    """

    def __init__(self, rule: OwnRule, module: nn.Module) -> None:
        self._handles = [each for each in module.parameters() if each.requires_grad]
        self._optimiser = (
            optimiser_for(rule.workload, module, rule.settings) if self._handles else None
        )
        self._scheduler = (
            scheduler_for(rule.workload, self._optimiser) if self._optimiser is not None else None
        )

    def step(
        self, weights: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor | None]
    ) -> None:
        """One update of the weights, in place. Those without a gradient keep their value."""
        if self._optimiser is None:
            return
        for handle, weight, gradient in zip(self._handles, weights, gradients, strict=True):
            handle.data = weight.data
            handle.grad = gradient
        self._optimiser.step()
        if self._scheduler is not None:
            self._scheduler.step()
        for handle in self._handles:
            handle.grad = None


@dataclass(frozen=True, slots=True)
class NormLimit:
    """Clips the gradients of all stages together: g * min(1, limit / norm), as
    torch.nn.utils.clip_grad_norm_ does for one module.

    `group` has the ranks that hold all stages, None for all ranks of the job; `part` of what a rank
    holds counts, 1 / R where its stage has R replicas in the group. `turns` are this rank's, where
    it has transfers.
    """

    limit: float
    group: dist.ProcessGroup | None = None
    part: float = 1.0
    turns: Turns = NO_TURNS

    def clipped(
        self,
        gradients: Sequence[torch.Tensor | None],
        device: torch.device,
        counted: Sequence[bool] | None = None,
    ) -> list[torch.Tensor | None]:
        """The clipped gradients, in memory of their own. All ranks of the group call it. Those that
        are not `counted` are of weights that another stage counts."""
        counts = counted or [True] * len(gradients)
        present = [
            each
            for each, counts_too in zip(gradients, counts, strict=True)
            if each is not None and counts_too
        ]
        square = torch.zeros((), dtype=torch.float64, device=device)
        for norm in torch._foreach_norm(present) if present else ():
            square += norm.double() ** 2 * self.part
        with self.turns.together(self.group):
            dist.all_reduce(square, group=self.group)
        # A tensor, for its value is not waited for: the host runs ahead of a GPU.
        factor = (self.limit / (square.sqrt() + CLIP_EPSILON)).clamp(max=1.0)
        return [None if each is None else each * factor for each in gradients]
