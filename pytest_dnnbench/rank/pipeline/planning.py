"""Which stages a case runs: the user's shape, or the planner's choice, from a profile that rank 0 takes.

    rank 0     profile (kept between sessions) ─> plan ─┐
    all ranks  bandwidth between rank 0 and rank 1 ─────┴─> broadcast ─> cut

Not here: how stages are costed (planner/), how a model is cut (cut.py).
"""

import statistics
import time
from typing import Any

import torch
import torch.distributed as dist

from pytest_dnnbench.case import Case
from pytest_dnnbench.messages import Place
from pytest_dnnbench.planner.plan import Plan, plan_from_data
from pytest_dnnbench.planner.predict import even_plan, plan_for
from pytest_dnnbench.planner.schedule import layout_of
from pytest_dnnbench.rank.pipeline.profile_cache import cached_profile

AUTO = "auto"

_PROBE_BYTES = 1 << 24
_PROBES = 5


def chosen_plan(place: Place, case: Case, model: str) -> Plan:
    """The plan of a case, the same on every rank; all ranks call it. Raises PlanError and UsageError.

    The planner may leave workers idle where more of them would not help. A case is a number of ranks, so then it
    runs pure data parallelism on all of them.
    """
    shape = str(case.options.get("stages", AUTO))
    bandwidth = float(case.options.get("bandwidth", 0.0)) or measured_bandwidth(place)
    answer: list[Any] = [None]
    if place.rank == 0:
        profile = cached_profile(
            model, case.image_size, case.batch_size, case.precision, place.device, threads=place.threads
        )
        memory = device_memory(place)
        if shape == AUTO:
            plan = plan_for(profile, [place.world_size], [bandwidth], memory_bytes=memory).require_feasible()
            if sum(plan.replicas) < place.world_size:
                plan = even_plan(profile, (place.world_size,), bandwidth=bandwidth, memory_bytes=memory)
        else:
            layout = layout_of(shape, place.world_size)
            plan = even_plan(profile, layout.replicas, bandwidth=bandwidth, memory_bytes=memory)
        answer = [plan.require_feasible().to_data()]
    dist.broadcast_object_list(answer)
    return plan_from_data(answer[0])


def device_memory(place: Place) -> float | None:
    """Bytes that a rank may fill: its GPU's; None on a CPU, whose memory all ranks share."""
    if not place.device.startswith("cuda"):
        return None
    return float(torch.cuda.get_device_properties(place.device).total_memory)


def measured_bandwidth(place: Place) -> float:
    """Bytes per second from rank 0 to rank 1: the median of a few transfers of 16 MiB. All ranks call it."""
    if place.world_size == 1:
        return 1.0  # nothing is sent
    seconds = []
    probe = torch.zeros(_PROBE_BYTES // 4, device=place.device)
    for _ in range(_PROBES):
        dist.barrier()
        start = time.perf_counter()
        if place.rank == 0:
            dist.send(probe, 1)
            dist.recv(probe[:1], 1)  # the answer: all has arrived
        elif place.rank == 1:
            dist.recv(probe, 0)
            dist.send(probe[:1], 0)
        if probe.is_cuda:
            torch.cuda.synchronize(probe.device)
        seconds.append(time.perf_counter() - start)
    fastest = [_PROBE_BYTES / statistics.median(seconds)]
    dist.broadcast_object_list(fastest)
    return fastest[0]
