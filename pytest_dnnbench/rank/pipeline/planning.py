"""Decides the stages of a case: the user's plan or shape, or the planner's choice from a profile.

    all ranks  bandwidth between rank 0 and rank 1 ─┐
    all ranks  profile, all at once (kept) ─> rank 0: plan ─> request of the proof and each launch

This happens once per case: profiles and bandwidths vary, and the launches have to measure the plan
that was proven. Not here: the costs of stages (planner/), the cut of a model (cut.py).
"""

import dataclasses
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress

import torch
import torch.distributed as dist

from pytest_dnnbench.errors import DnnbenchError, WorkloadRefused
from pytest_dnnbench.messages import Place, PlanDecision, RunRequest
from pytest_dnnbench.planner.layout import Layout
from pytest_dnnbench.planner.options import AUTO, forced_layout, plan_file, schedule_of
from pytest_dnnbench.planner.plan import Plan, read_plan
from pytest_dnnbench.planner.predict import even_plan, plan_for
from pytest_dnnbench.planner.profile import Profile
from pytest_dnnbench.planner.synchronous import pipelines_of
from pytest_dnnbench.rank import group, rank_phase
from pytest_dnnbench.rank.pipeline.cut import cut
from pytest_dnnbench.rank.pipeline.runtime_trial import seconds_of_pass
from pytest_dnnbench.rank.profiling.case_profile import case_profile
from pytest_dnnbench.rank.profiling.example_input import example_input, traced_example
from pytest_dnnbench.rank.profiling.host_work import refuse_host_work
from pytest_dnnbench.rank.profiling.operator_graph import trace
from pytest_dnnbench.rank.profiling.profiler import parts_over_whole
from pytest_dnnbench.rank.profiling.varying_sizes import check_sizes, of_varying_sizes
from pytest_dnnbench.rank.profiling.weights import tied_weights, together
from pytest_dnnbench.rank.proof.conditions import ProofCopies, check_room_ahead
from pytest_dnnbench.rank.workloads.checks import model_of
from pytest_dnnbench.rank.workloads.factory import workload_of
from pytest_dnnbench.rank.workloads.image_models import seed

_PROBE_BYTES = {"cpu": 1 << 24, "cuda": 1 << 28}
"""16 MiB take 50 us over NVLink, about as long as what is around them."""
_SHARED_PROBE_BYTES = 1 << 24
"""Between ranks that share a GPU, which take turns on it for every piece of a transfer."""
_PROBES = 5
_EXAMPLES = 3
"""Minibatches in which a size that depends on values has more than one. A router of a few samples
may send as many to an expert twice."""
USABLE_MEMORY = 0.9
"""The part of a GPU's free memory that plans may use."""


def decide(place: Place, request: RunRequest) -> PlanDecision | None:
    """The plan of a case, on rank 0; None on the other ranks. All ranks call it. Raises PlanError,
    ProfileError or UsageError."""
    with group.membership(place):
        rank_phase.enter("plan")
        options = request.case.options
        _refuse_clipping(request)
        _check_room(place, request)
        layout = forced_layout(options, place.world_size)
        if path := plan_file(options):
            decision = PlanDecision(read_plan(path), "user")
        else:
            bandwidth = float(options.get("bandwidth", 0.0)) or measured_bandwidth(place)
            memory = device_memory(place)
            profile = _profile(place, request)
            if profile is None:
                return None
            decision = _planned(profile, layout, place.world_size, bandwidth, memory)
        schedule_of(request.case.framework, Layout(decision.plan.replicas), options)
        _check_cut(place, request, decision.plan)
        return decision


def decide_synchronous(place: Place, request: RunRequest) -> PlanDecision | None:
    """As `decide`, for the schedules of torch: the best cuts for the stages that the schedule has,
    alike for all schedules with as many."""
    with group.membership(place):
        rank_phase.enter("plan")
        options = request.case.options
        _check_room(place, request)
        pipelines = pipelines_of(request.case.framework, place.world_size, options)
        if path := plan_file(options):
            decision = PlanDecision(read_plan(path), "user")
            varying = _varying(place, request)
        else:
            bandwidth = float(options.get("bandwidth", 0.0)) or measured_bandwidth(place)
            runtime_s = seconds_of_pass(place, pipelines)
            profile = _profile(place, request)
            if profile is None:
                return None
            varying = _varying(place, request)
            profile = _with_ties_apart(profile, request, varying)
            replicas = (pipelines.replicas,) * pipelines.stages
            plan = even_plan(profile, replicas, workers=place.world_size, bandwidth=bandwidth)
            decision = PlanDecision(
                plan,
                "planner" if options.get("stages", AUTO) == AUTO else "user",
                bandwidth,
                parts_over_whole(profile),
                runtime_s,
            )
        _check_cut(place, request, decision.plan, tied=True)
        check_sizes(decision.plan, varying)
        return decision


def _check_room(place: Place, request: RunRequest) -> None:
    """Raises ProofOutOfMemory for a model whose proof, which every launch needs, does not fit."""
    workload = workload_of(request)
    copies = ProofCopies.of_pipeline(request.case.phase)
    check_room_ahead(request.model, lambda: model_of(workload), place, copies)


def _with_ties_apart(
    profile: Profile, request: RunRequest, varying: tuple[tuple[str, ...], ...]
) -> Profile:
    """The profile with tied weights on any stages, for all stages update at once, and with these
    groups of operators on one."""
    workload = workload_of(request)
    graph = trace(model_of(workload).train(), traced_example(workload))
    return dataclasses.replace(profile, together=together(graph, tied_weights(graph)) + varying)


def _varying(place: Place, request: RunRequest) -> tuple[tuple[str, ...], ...]:
    """The operators whose sizes depend on values, in a few minibatches of the case."""
    workload, size = workload_of(request), request.case.batch_size
    examples = [example_input(workload, size, number, place.device) for number in range(_EXAMPLES)]
    seed(request.case.seed)
    model = model_of(workload).train().to(place.device)
    return of_varying_sizes(trace(model, traced_example(workload, place.device)), examples)


def _profile(place: Place, request: RunRequest) -> Profile | None:
    """Rank 0's profile; None on the others, which profile the same meanwhile, for that is how the
    ranks of a pipeline compute. What fails there alone is no matter.

    Where ranks share a GPU, rank 0 profiles alone: while they take turns on it, a time holds the
    turns of the others, and parts and whole say nothing of each other."""
    group.meet()
    if place.rank == 0:
        return case_profile(place, request)
    if place.sharing > 1:
        return None
    with suppress(DnnbenchError):
        case_profile(place, request)
    return None


def _planned(
    profile: Profile, layout: Layout | None, ranks: int, bandwidth: float, memory: float | None
) -> PlanDecision:
    """The best plan of the user's shape, or the planner's choice, from a profile of the model, for
    ranks with so many bytes of memory."""
    if layout is not None:
        plan = even_plan(profile, layout.replicas, bandwidth=bandwidth, memory_bytes=memory)
    else:
        plan = _chosen(profile, ranks, bandwidth, memory)
    return PlanDecision(
        plan.require_feasible(),
        "user" if layout is not None else "planner",
        bandwidth,
        parts_over_whole(profile),
    )


def _chosen(profile: Profile, ranks: int, bandwidth: float, memory: float | None) -> Plan:
    """The planner's choice for all ranks.

    The planner leaves workers idle where more of them would not help. A case has a fixed number of
    ranks, so it then runs pure data parallelism on all of them.
    """
    plan = plan_for(profile, [ranks], [bandwidth], memory_bytes=memory)
    if sum(plan.require_feasible().replicas) < ranks:
        plan = even_plan(profile, (ranks,), bandwidth=bandwidth, memory_bytes=memory)
    return plan


def _refuse_clipping(request: RunRequest) -> None:
    """Raises WorkloadRefused for a limit on the norm of all gradients together where stages update
    at different times; validation updates nothing."""
    workload, framework = workload_of(request), request.case.framework
    updates_apart = request.case.phase == "train" and framework != "pipedream-flush"
    if workload.clip_norm is not None and updates_apart:
        raise WorkloadRefused(
            f"{type(workload).__name__} limits the norm of all gradients ({workload.clip_norm}),"
            f" but stages of {framework} step at different times: use pipedream-flush, or a"
            " schedule of torch such as 1f1b, or let clip_norm be None"
        )


def _check_cut(place: Place, request: RunRequest, plan: Plan, *, tied: bool = False) -> None:
    """Raises PlanError when the plan's stages are not made of this model's operators, and
    UsageError when the model does more than its operators."""
    workload = workload_of(request)
    model = model_of(workload).train().to(place.device)
    inputs = example_input(workload, request.case.batch_size, device=place.device)
    graph = trace(model, traced_example(workload, place.device))
    cut(graph, None, [stage.operators for stage in plan.stages], tied=tied)
    refuse_host_work(graph, inputs)


def device_memory(place: Place) -> float | None:
    """Bytes that a rank may fill: most of those free on its GPU, for NCCL and fragments take some,
    shared by its ranks; None on a CPU, whose memory all ranks share."""
    if not place.device.startswith("cuda"):
        return None
    free_bytes, _ = torch.cuda.mem_get_info(place.device)
    return USABLE_MEMORY * free_bytes / place.sharing


def measured_bandwidth(place: Place) -> float:
    """Bytes per second from rank 0 to rank 1, over a few transfers. All ranks call it."""
    if place.world_size == 1:
        return 1.0  # nothing is sent
    seconds = []
    size = _PROBE_BYTES[torch.device(place.device).type]
    if place.sharing > 1:
        size = _SHARED_PROBE_BYTES
    probe = torch.zeros(size // 4, device=place.device)
    for _ in range(_PROBES):
        group.meet()
        start = time.perf_counter()
        if place.rank == 0:
            dist.send(probe, 1)
            dist.recv(probe[:1], 1)  # the answer: all of it has arrived
        elif place.rank == 1:
            dist.recv(probe, 0)
            dist.send(probe[:1], 0)
        if probe.is_cuda:
            torch.cuda.synchronize(probe.device)
        seconds.append(time.perf_counter() - start)
    bandwidth = [bandwidth_of(size, seconds, on_gpu=probe.is_cuda)]
    # Rank 0's figure: the other ranks have timed the barrier and little else.
    dist.broadcast_object_list(bandwidth)
    return bandwidth[0]


def bandwidth_of(size: int, seconds: Sequence[float], *, on_gpu: bool) -> float:
    """Bytes per second of transfers of `size` bytes: the median or, on GPUs, the best, to one
    digit. The plan follows from it, and with the plan whether two sessions compare: the noise of a
    link must not change either."""
    if not on_gpu:
        return size / statistics.median(seconds)
    return float(f"{size / min(seconds):.0e}")
