"""The gradients of one update: added up over minibatches, averaged over the replicas of the stage.

DistributedDataParallel cannot do this: its hooks expect a forward pass right before each backward
pass, and a drained pipeline has none.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist


class GradientMean:
    """Adds up gradients, then gives their mean over all replicas, in one all-reduce of a flat
    buffer.

    `replicas` is the group of the stage's replicas, None for a stage without. Every replica takes
    part in every mean, also one that has no minibatch in it. An update by one minibatch takes its
    gradients as they are; otherwise they are gathered in a buffer of this object's own, for
    autograd may give one tensor twice.
    """

    def __init__(
        self,
        parameters: Sequence[torch.Tensor],
        replicas: dist.ProcessGroup | None,
        update_size: int,
    ) -> None:
        self._replicas = replicas
        self._gathered: list[torch.Tensor] = []
        self._added = 0
        self._flat: torch.Tensor | None = None
        self._parts: list[torch.Tensor] = []
        if update_size > 1 and parameters:
            kinds = {parameter.dtype for parameter in parameters}
            assert len(kinds) == 1, f"one flat buffer holds one type, the stage has {kinds}"
            sizes = [parameter.numel() for parameter in parameters]
            self._flat = torch.zeros(
                sum(sizes), dtype=parameters[0].dtype, device=parameters[0].device
            )
            pieces = torch.split_with_sizes(self._flat, sizes)
            self._parts = [
                piece.view_as(parameter)
                for piece, parameter in zip(pieces, parameters, strict=True)
            ]

    def add(self, gradients: Sequence[torch.Tensor]) -> None:
        """Adds the gradients of one minibatch."""
        if self._flat is None:
            self._gathered = list(gradients)
        elif self._added:
            torch._foreach_add_(self._parts, list(gradients))
        else:
            torch._foreach_copy_(self._parts, list(gradients))
        self._added += 1

    def take(self, minibatches: int) -> list[torch.Tensor]:
        """The mean over `minibatches`, which all replicas together have added since the last
        time."""
        added, self._added = self._added, 0
        if self._flat is None:
            gathered, self._gathered = self._gathered, []
            return gathered
        if not added:
            self._flat.zero_()
        if self._replicas is not None:
            dist.all_reduce(self._flat, group=self._replicas)
        self._flat.div_(minibatches)
        return self._parts
