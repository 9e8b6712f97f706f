"""torch's PowerSGD hook for DistributedDataParallel, and what its written form starts from.

The hook averages plainly in its first passes: DistributedDataParallel settles its buckets in them.
Only its random numbers are looked up here: a first Q for each weight, bucket by bucket. Not here:
the written form (rank/proof/low_rank.py), when the plain passes run (ddp.py).
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch._C._distributed_c10d import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.proof.low_rank import LowRank
from pytest_dnnbench.rank.proof.randomness import drawing

PLAIN_PASSES = 2
"""Backward passes before gradients are approximated: as few as torch takes with error feedback."""

_SEED = 0
"""Of the hook's random numbers, the same on every rank."""

_SEEDS = 1_000_000_000
"""The hook draws the seed of a bucket below this."""

_WORTH = 2
"""A weight is approximated where that makes the exchange smaller by more than this."""


class PowerSgdHook:
    """The hook with error feedback and a warm start, as is torch's default; `rank` is that of the
    approximation."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self._state = PowerSGDState(
            None,
            matrix_approximation_rank=rank,
            start_powerSGD_iter=PLAIN_PASSES,
            min_compression_rate=_WORTH,
            random_seed=_SEED,
        )
        self._buckets: dict[int, list[torch.Tensor]] = {}

    def register(self, model: DistributedDataParallel) -> None:
        """Lets the hook exchange the model's gradients. Raises UsageError for weights that it does
        not take."""
        for name, weight in model.module.named_parameters():
            if weight.requires_grad and (weight.dim() == 0 or weight.is_complex()):
                kind = "complex" if weight.is_complex() else "a number without a dimension"
                raise UsageError(
                    f"--dnn-ddp-hook powersgd takes real weights with dimensions, and {name!r} is"
                    f" {kind}: give it another form, or use another hook"
                )
        model.register_comm_hook(self, _exchange)

    def exchange(self, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        """The exchange of one bucket; notes what the buckets hold while they settle. On CPU ranks
        it is over when this returns: a bucket's second and third message go out when the one before
        has arrived, and gloo's ranks would send those of two buckets in different orders."""
        if self._state.iter < PLAIN_PASSES:
            self._buckets[bucket.index()] = bucket.parameters()
        with drawing():
            given = powerSGD_hook(self._state, bucket)
        if bucket.buffer().device.type == "cpu":
            given.wait()
        return given

    @property
    def compression(self) -> float:
        """Elements of the gradients for each that was exchanged, of the approximated steps so far;
        0 before the first."""
        sent = self._state.total_numel_after_compression
        return self._state.total_numel_before_compression / sent if sent else 0.0

    def written(self, names: Mapping[int, str]) -> LowRank:
        """The written form, before the first approximated step. `names` has the name of each weight
        by its id. Called after the plain passes."""
        seeds = np.random.RandomState(_SEED)
        right: dict[str, torch.Tensor] = {}
        orders: dict[str, tuple[int, ...]] = {}
        for _, weights in sorted(self._buckets.items()):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seeds.randint(_SEEDS))
                for weight, rows, columns in self._approximated(weights):
                    name, rank = names[id(weight)], min(rows, columns, self.rank)
                    drawn = torch.randn(1, columns, rank, dtype=weight.dtype)[0]
                    right[name] = drawn.to(weight.device, torch.float64)
                    orders[name] = _order(weight)
        return LowRank(right, orders)

    def _approximated(self, weights: list[torch.Tensor]) -> Iterator[tuple[torch.Tensor, int, int]]:
        """The weights of a bucket that are worth it, with rows and columns: weights of one shape
        come together, in the order of the first of them."""
        shapes: dict[tuple[int, int], list[torch.Tensor]] = {}
        for weight in weights:
            rows = len(weight)
            columns = weight.numel() // rows
            rank = min(rows, columns, self.rank)
            if (rows + columns) * rank * _WORTH < rows * columns:
                shapes.setdefault((rows, columns), []).append(weight)
        for shape, alike in shapes.items():
            yield from ((weight, *shape) for weight in alike)


def _exchange(hook: PowerSgdHook, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    # A function: torch does not take a method.
    return hook.exchange(bucket)


def _order(weight: torch.Tensor) -> tuple[int, ...]:
    """The dimensions of a weight as they lie in memory, the one of the longest strides first."""
    strides = weight.stride()
    return tuple(sorted(range(weight.dim()), key=lambda place: -strides[place]))
