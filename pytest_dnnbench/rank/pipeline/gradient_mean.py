"""The gradients of one update: the sum over its minibatches, averaged over the stage's replicas.

DistributedDataParallel cannot do this: its hooks expect a forward pass right before each backward
pass, and a pipeline that drains has none.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist


class GradientMean:
    """Sums gradients, then gives their mean over all replicas, by one all-reduce of a flat buffer.

    `like` are tensors of the gradients' shapes, type and device, in the gradients' order; their
    values do not matter, and nothing keeps them. `replicas` is the group of the stage's replicas,
    None for a stage without. Every replica takes part in every mean, also one that has no minibatch
    in it.

    An update by one minibatch takes its gradients unchanged. Otherwise they are summed in a buffer
    of this object: autograd may give one tensor for two parameters, so a sum in place in its
    tensors would count twice.
    """

    def __init__(
        self, like: Sequence[torch.Tensor], replicas: dist.ProcessGroup | None, update_size: int
    ) -> None:
        self._replicas = replicas
        self._unchanged: list[torch.Tensor] = []
        self._added = 0
        self._flat: torch.Tensor | None = None
        self._parts: list[torch.Tensor] = []
        if update_size > 1 and like:
            dtypes = {tensor.dtype for tensor in like}
            assert len(dtypes) == 1, f"one flat buffer holds one type, the stage has {dtypes}"
            sizes = [tensor.numel() for tensor in like]
            self._flat = torch.zeros(sum(sizes), dtype=like[0].dtype, device=like[0].device)
            pieces = torch.split_with_sizes(self._flat, sizes)
            self._parts = [
                piece.view_as(tensor) for piece, tensor in zip(pieces, like, strict=True)
            ]

    def add(self, gradients: Sequence[torch.Tensor]) -> None:
        """Adds the gradients of one minibatch."""
        if self._flat is None:
            self._unchanged = list(gradients)
        elif self._added:
            torch._foreach_add_(self._parts, list(gradients))
        else:
            torch._foreach_copy_(self._parts, list(gradients))
        self._added += 1

    def take(self, minibatches: int) -> list[torch.Tensor]:
        """The mean over the `minibatches` that all replicas together have added since the last
        call. It is valid until the next `add`."""
        added, self._added = self._added, 0
        if self._flat is None:
            unchanged, self._unchanged = self._unchanged, []
            return unchanged
        if not added:
            self._flat.zero_()  # the sum of the update before is still in it
        if self._replicas is not None:
            dist.all_reduce(self._flat, group=self._replicas)
        self._flat.div_(minibatches)
        return self._parts
