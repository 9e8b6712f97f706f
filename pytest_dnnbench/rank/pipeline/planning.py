"""Which stages a case runs: the user's plan or shape, or the planner's choice, from a profile that
rank 0 takes.

    rank 0     profile (kept between sessions) ─> plan ─> the request of the proof and of every launch
    all ranks  bandwidth between rank 0 and rank 1 ─┘

Asked once per case: profiles and bandwidths vary, and what is proven has to be what is measured.
Not here: how stages are costed (planner/), how a model is cut (cut.py).
"""

import statistics
import time
from typing import Any

import torch
import torch.distributed as dist

from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.planner.options import forced_layout, plan_file, schedule_of
from pytest_dnnbench.planner.plan import Plan, read_plan
from pytest_dnnbench.planner.predict import even_plan, plan_for
from pytest_dnnbench.planner.profile import Profile
from pytest_dnnbench.planner.schedule import Layout
from pytest_dnnbench.rank import group, rank_phase
from pytest_dnnbench.rank.models import build_model, example_images
from pytest_dnnbench.rank.pipeline.cut import cut
from pytest_dnnbench.rank.profiling.profile_cache import cached_profile
from pytest_dnnbench.rank.profiling.profiler import parts_over_whole

_PROBE_BYTES = 1 << 24
_PROBES = 5
_TRACED_IMAGES = 2


def decide(place: Place, request: RunRequest) -> dict[str, Any]:
    """The plan of a case as plain data, on rank 0; all ranks call it. Raises PlanError,
    ProfileError or UsageError.

    `decided_by` is "user" or "planner". Of what it was planned from, None where a plan was given:
    `bandwidth_bytes_s`, and `profile_parts_over_whole`, far from 1 where the profile was taken on a
    busy machine.
    """
    with group.membership(place):
        rank_phase.enter("plan")
        options = request.case.options
        if path := plan_file(options):
            forced_layout(options, place.world_size)
            plan, decided_by, bandwidth, agreement = read_plan(path), "user", None, None
        else:
            bandwidth = float(options.get("bandwidth", 0.0)) or measured_bandwidth(place)
            if place.rank:
                return {}
            plan, decided_by, agreement = _planned(place, request, bandwidth)
        schedule_of(request.case.framework, Layout(plan.replicas), options)
        _check_cut(request, plan)
        return {
            "plan": plan.to_data(),
            "decided_by": decided_by,
            "bandwidth_bytes_s": bandwidth,
            "profile_parts_over_whole": agreement,
        }


def _planned(place: Place, request: RunRequest, bandwidth: float) -> tuple[Plan, str, float]:
    """The plan, who decided it, and how far the parts of its profile add up to the whole.

    The planner may leave workers idle where more of them would not help. A case is a number of
    ranks, so then it runs pure data parallelism on all of them.
    """
    case = request.case
    layout, memory = forced_layout(case.options, place.world_size), device_memory(place)
    profile: Profile = cached_profile(
        request.model,
        case.image_size,
        case.batch_size,
        case.precision,
        place.device,
        threads=place.threads,
    )
    if layout is not None:
        plan, decided_by = (
            even_plan(profile, layout.replicas, bandwidth=bandwidth, memory_bytes=memory),
            "user",
        )
    else:
        plan, decided_by = (
            plan_for(profile, [place.world_size], [bandwidth], memory_bytes=memory),
            "planner",
        )
        if sum(plan.require_feasible().replicas) < place.world_size:
            plan = even_plan(profile, (place.world_size,), bandwidth=bandwidth, memory_bytes=memory)
    return plan.require_feasible(), decided_by, parts_over_whole(profile)


def _check_cut(request: RunRequest, plan: Plan) -> None:
    """Raises PlanError when the plan's stages are not made of this model's operators."""
    model = build_model(request.model, request.case.image_size)
    cut(
        model,
        example_images(request.case.image_size, _TRACED_IMAGES),
        [stage.nodes for stage in plan.stages],
    )


def device_memory(place: Place) -> float | None:
    """Bytes that a rank may fill: its GPU's; None on a CPU, whose memory all ranks share."""
    if not place.device.startswith("cuda"):
        return None
    return float(torch.cuda.get_device_properties(place.device).total_memory)


def measured_bandwidth(place: Place) -> float:
    """Bytes per second from rank 0 to rank 1: the median of a few transfers of 16 MiB. All ranks
    call it."""
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
