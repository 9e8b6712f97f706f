"""What collectives cost on the ranks of a case: measured with a small tensor and a large one.

Not here: what follows from it (rank/prediction.py); collectives that a user times (collectives.py).
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.distributed as dist

from pytest_dnnbench.messages import Place
from pytest_dnnbench.planner.fabric import FREE, CollectiveCost, cost_through

_SMALL_BYTES = 1 << 12
_LARGE_BYTES = {"cpu": 1 << 24, "cuda": 1 << 26}
"""About the size of what frameworks send: a bucket, a block."""

_WARMUPS, _REPETITIONS = 2, 7

Collective = Callable[[torch.Tensor, torch.Tensor], object]
"""Takes the whole tensor, and a rank's part of it."""

COLLECTIVES: Mapping[str, Collective] = {
    "all_reduce": lambda tensor, part: dist.all_reduce(tensor),
    "all_gather": lambda tensor, part: dist.all_gather_into_tensor(tensor, part),
    "reduce_scatter": lambda tensor, part: dist.reduce_scatter_tensor(part, tensor),
}


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
    part = torch.ones(per_rank, device=place.device)
    seconds = []
    for _ in range(_WARMUPS + _REPETITIONS):
        whole.fill_(1.0)
        dist.barrier()
        start = time.perf_counter()
        collective(whole, part)
        if whole.is_cuda:
            torch.cuda.synchronize(whole.device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[_WARMUPS:])
