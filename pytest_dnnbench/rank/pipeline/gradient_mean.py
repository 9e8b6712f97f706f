"""The gradients of one update: the sum over its minibatches, averaged over the stage's replicas.

DistributedDataParallel cannot do this: its hooks expect a forward pass right before each backward
pass, and a pipeline that drains has none.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist

from pytest_dnnbench.rank.pipeline.turns import NO_TURNS, Turns


class GradientMean:
    """Sums gradients, then gives their mean over all replicas, by one all-reduce of a flat buffer
    for each type.

    `like` are tensors of the gradients' shapes, types and device, in the gradients' order; their
    values do not matter, and nothing keeps them. `replicas` is the group of the stage's replicas,
    None for a stage without; `turns` are this rank's, where it has transfers. Every replica takes
    part in every mean, also one that has no minibatch in it.

    An update by one minibatch takes its gradients unchanged. Otherwise they are summed in buffers
    of this object: autograd may give one tensor for two parameters, so a sum in place in its
    tensors would count twice. A gradient that is None in all minibatches of the first update, on
    all replicas, stays None: a traced stage computes the same operators for every minibatch.
    """

    def __init__(
        self,
        like: Sequence[torch.Tensor],
        replicas: dist.ProcessGroup | None,
        update_size: int,
        turns: Turns = NO_TURNS,
    ) -> None:
        self._replicas = replicas
        self._turns = turns
        self._unchanged: list[torch.Tensor | None] = []
        self._added = 0
        self._flat: list[torch.Tensor] = []
        self._parts: list[torch.Tensor] = []
        self._absent: list[bool] | None = None
        self._reached = [False] * len(like)
        if update_size > 1 and like:
            self._allocate(like)

    def _allocate(self, like: Sequence[torch.Tensor]) -> None:
        parts: dict[int, torch.Tensor] = {}
        for dtype in dict.fromkeys(tensor.dtype for tensor in like):
            places = [place for place, tensor in enumerate(like) if tensor.dtype == dtype]
            sizes = [like[place].numel() for place in places]
            flat = torch.zeros(sum(sizes), dtype=dtype, device=like[0].device)
            self._flat.append(flat)
            for place, piece in zip(places, torch.split_with_sizes(flat, sizes), strict=True):
                parts[place] = _laid_out_like(like[place], piece)
        self._parts = [parts[place] for place in range(len(like))]

    def add(self, gradients: Sequence[torch.Tensor | None]) -> None:
        """Adds the gradients of one minibatch."""
        if not self._flat:
            self._unchanged = list(gradients)
        else:
            self._sum(gradients)
        self._added += 1

    def _sum(self, gradients: Sequence[torch.Tensor | None]) -> None:
        into, given = [], []
        for place, (part, gradient) in enumerate(zip(self._parts, gradients, strict=True)):
            if gradient is not None:
                into.append(part)
                given.append(gradient)
                self._reached[place] = True
        if self._added:
            torch._foreach_add_(into, given)
        elif into:
            torch._foreach_copy_(into, given)

    def take(self, minibatches: int) -> list[torch.Tensor | None]:
        """The mean over the `minibatches` that all replicas together have added since the last
        call. It is valid until the next `add`."""
        added, self._added = self._added, 0
        if not self._flat:
            unchanged, self._unchanged = self._unchanged, []
            return unchanged
        if self._absent is None:
            self._absent = self._agree_on_absent()
        if not added:
            for flat in self._flat:
                flat.zero_()  # the sum of the update before is still in it
        if self._replicas is not None:
            with self._turns.together(self._replicas):
                for flat in self._flat:
                    dist.all_reduce(flat, group=self._replicas)
        for flat in self._flat:
            flat.div_(minibatches)
        return [
            None if absent else part for part, absent in zip(self._parts, self._absent, strict=True)
        ]

    def _agree_on_absent(self) -> list[bool]:
        """Which gradients no replica has: asked once, in the first update, between hosts."""
        reached = torch.tensor(self._reached, dtype=torch.int32)
        if self._replicas is not None:
            dist.all_reduce(reached, dist.ReduceOp.MAX, group=self._replicas)
        return [not each for each in reached.tolist()]


def _laid_out_like(tensor: torch.Tensor, piece: torch.Tensor) -> torch.Tensor:
    """A piece of a flat buffer with the shape of a tensor, and with its strides (channels_last):
    then whoever updates the tensor need not copy."""
    strides = torch.empty_like(tensor, device="meta").stride()  # those without gaps or overlap
    return piece.as_strided(tensor.shape, strides, piece.storage_offset())
