"""What collectives cost on the ranks of a case, as frameworks call them: measured with a small
tensor and a large one.

Not here: what follows from it (rank/prediction.py); collectives that a user times (collectives.py).
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.distributed as dist

from pytest_dnnbench.messages import Place
from pytest_dnnbench.planner.fabric import FREE, CollectiveCost, cost_through
from pytest_dnnbench.rank import group

_SMALL_BYTES = 1 << 12
_LARGE_BYTES = {"cpu": 1 << 24, "cuda": 1 << 26}
"""About the size of what frameworks send: a bucket, a block."""

_WARMUPS, _REPETITIONS = 2, 7

Collective = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], object]
"""Takes the whole tensor, a rank's part of it, and the framework's own buffer of the whole."""


def _all_reduce(whole: torch.Tensor, part: torch.Tensor, bucket: torch.Tensor) -> None:
    """Of gradients, as DistributedDataParallel does: into a bucket, divided, and back."""
    torch.mul(whole, 1 / dist.get_world_size(), out=bucket)
    dist.all_reduce(bucket)
    whole.copy_(bucket)


def _all_gather(whole: torch.Tensor, part: torch.Tensor, bucket: torch.Tensor) -> None:
    """Of weights, as `fully_shard` does: out of parts of single weights, and into whole ones, whose
    memory is new each time."""
    gathered = torch.empty_like(whole)
    dist.all_gather_into_tensor(gathered, part.clone())
    torch.empty_like(whole).copy_(gathered)


def _reduce_scatter(whole: torch.Tensor, part: torch.Tensor, bucket: torch.Tensor) -> None:
    """Of gradients, as `fully_shard` does: first they are put together by the ranks that get
    them."""
    dist.reduce_scatter_tensor(torch.empty_like(part), torch.empty_like(whole).copy_(whole))


COLLECTIVES: Mapping[str, Collective] = {
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
    "reduce_scatter": _reduce_scatter,
}
"""Each with the copies around it: on CPU ranks they take a good part of its time."""


def measured_costs(place: Place, names: Sequence[str]) -> dict[str, CollectiveCost]:
    """The cost of each collective of COLLECTIVES, by name. All ranks call it, and get rank 0's
    figures. One rank alone sends nothing."""
    if place.world_size == 1:
        return dict.fromkeys(names, FREE)
    large = _LARGE_BYTES[torch.device(place.device).type]
    costs = {}
    for name in names:
        small, most = (_seconds(place, COLLECTIVES[name], size) for size in (_SMALL_BYTES, large))
        costs[name] = cost_through((_SMALL_BYTES, small), (large, most))
    return costs


def _seconds(place: Place, collective: Collective, size: int) -> float:
    """The median over a few calls."""
    per_rank = -(-size // (4 * place.world_size))
    whole = torch.ones(per_rank * place.world_size, device=place.device)
    part, bucket = torch.ones(per_rank, device=place.device), torch.empty_like(whole)
    seconds = []
    for _ in range(_WARMUPS + _REPETITIONS):
        whole.fill_(1.0)
        group.meet()
        start = time.perf_counter()
        collective(whole, part, bucket)
        if whole.is_cuda:
            torch.cuda.synchronize(whole.device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[_WARMUPS:])
