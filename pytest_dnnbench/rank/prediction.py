"""What a step of a case should take: from a profile of its model, and what collectives cost between
its ranks. Both are measured here, once per case, before its launches.

    all ranks    profile, all at once (kept between sessions) ─┐
    all ranks    collectives of the framework ─────────────────┴─> rank 0: PredictedStep

All ranks profile at the same time, because that is how they train: on one machine they share caches
and memory. Not here: the formulae (planner/data_parallel.py, planner/sharded.py); pipelines, whose
plan has a prediction of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

import torch
import torch.distributed as dist

from pytest_dnnbench.case import Case
from pytest_dnnbench.errors import DnnbenchError
from pytest_dnnbench.messages import Place, PredictedStep, RunRequest
from pytest_dnnbench.planner.data_parallel import StepTime, data_parallel_step
from pytest_dnnbench.planner.fabric import CollectiveCost
from pytest_dnnbench.planner.profile import Node, Profile
from pytest_dnnbench.planner.sharded import Reshard, sharded_step, units_of
from pytest_dnnbench.planner.training_memory import (
    alone_bytes,
    data_parallel_bytes,
    number_in,
    sharded_bytes,
)
from pytest_dnnbench.rank import group, rank_phase
from pytest_dnnbench.rank.collective_costs import measured_costs
from pytest_dnnbench.rank.profiling.profile_cache import cached_profile
from pytest_dnnbench.rank.profiling.profiler import Effort, parts_over_whole
from pytest_dnnbench.rank.workload_factory import workload_of
from pytest_dnnbench.step_form import StepForm

_FORMS = ("memory_format", "fused", "accumulate", "cudnn_benchmark")
"""What a profile, or a formula, can follow of a step's form."""

_EFFORT = Effort(warmup=2, repetitions=7)
"""Half of what a plan takes: sums of medians vary less than the single medians that a plan cuts
between."""

_HALF = ("fp16", "bf16")
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class _Rule:
    """How a framework's step is predicted: the collectives that it uses, why a case of it cannot be
    predicted, its time and its memory."""

    collectives: tuple[str, ...]
    refusal: Callable[[Case], str]
    time: Callable[["_Known"], StepTime]
    memory_bytes: Callable[["_Known"], float]


@dataclass(frozen=True, slots=True)
class _Known:
    """What was measured: the profile, whose operators add up to the whole model, and the costs by
    collective."""

    case: Case
    profile: Profile
    costs: Mapping[str, CollectiveCost]
    overlaps: bool

    @property
    def update_s(self) -> float:
        """Of all weights."""
        return number_in(self.profile, "update_s")

    @property
    def nodes(self) -> tuple[Node, ...]:
        """In the order of the forward pass."""
        return self.profile.in_topological_order()

    def cost(self, name: str, narrow: bool) -> CollectiveCost:
        """Of a collective, per byte of single precision; `narrow`: it sends half of them."""
        cost = self.costs[name]
        return CollectiveCost(cost.fixed_s, cost.bytes_s * (2 if narrow else 1))


def predict(place: Place, request: RunRequest) -> PredictedStep | None:
    """The prediction of a case on rank 0; None on the other ranks. All ranks call it. What cannot
    be predicted says why (`refused`) and does not raise."""
    case = request.case
    rule = _RULES[case.framework]
    if reason := _refused_form(case) or rule.refusal(case):
        return PredictedStep(refused=reason)
    with group.membership(place):
        rank_phase.enter("prediction")
        torch.backends.cudnn.benchmark = case.form.cudnn_benchmark
        dist.barrier()
        try:
            profile = _profile(place, request)
        except DnnbenchError as error:  # on all ranks alike: the model cannot be profiled
            return PredictedStep(refused=str(error))
        costs = measured_costs(place, rule.collectives)
    if place.rank:
        return None
    overlaps = place.device.startswith("cuda")
    known = _Known(case, _adding_up(profile), costs, overlaps)
    time = rule.time(known)
    return PredictedStep(
        compute_s=time.compute_s,
        exposed_s=time.exposed_s,
        update_s=time.update_s,
        memory_bytes=rule.memory_bytes(known),
        overlaps=overlaps,
        collectives={
            name: (cost.fixed_s, cost.bytes_s)
            for name, cost in costs.items()
            if place.world_size > 1
        },
        profile_parts_over_whole=parts_over_whole(profile),
    )


def _profile(place: Place, request: RunRequest) -> Profile:
    case = request.case
    return cached_profile(
        request.model,
        case.image_size,
        case.batch_size,
        case.precision,
        place.device,
        threads=place.threads,
        workload=workload_of(request),
        form=case.form,
        beside=place.world_size - 1,
        effort=_EFFORT,
    )


def _adding_up(profile: Profile) -> Profile:
    """The profile with its times scaled to the time of the whole model, which has no marks in it:
    of short operators the parts add up to more, of a busy machine to less. A GPU whose kernels take
    less than the host needs to queue them waits for the host."""
    whole_s = max(number_in(profile, "whole_s"), number_in(profile, "host_s"))
    factor = whole_s / profile.parts_s
    nodes = (
        replace(node, forward_s=node.forward_s * factor, backward_s=node.backward_s * factor)
        for node in profile.nodes
    )
    return replace(profile, nodes=tuple(nodes))


def _refused_form(case: Case) -> str:
    """Why the step's form cannot be followed; empty where it can."""
    plain = StepForm()
    others = [
        name
        for name in (each.name for each in fields(plain))
        if name not in _FORMS and getattr(case.form, name) != getattr(plain, name)
    ]
    return f"a profile knows nothing of {', '.join(others)}" if others else ""


def _no_refusal(case: Case) -> str:
    return ""


def _unknown_exchange(case: Case) -> str:
    hook = str(case.options.get("hook", "none"))
    if case.options.get("sync_batchnorm"):
        return "what SyncBatchNorm exchanges is not in the formula"
    return "" if hook in ("none", *_HALF) else f"nothing is known of the hook {hook}"


def _accumulates(case: Case) -> str:
    return "an exchange per minibatch is not in the formula" if case.form.accumulate > 1 else ""


def _alone_time(known: _Known) -> StepTime:
    return StepTime(_compute_s(known), 0.0, known.update_s)


def _compute_s(known: _Known) -> float:
    return known.profile.parts_s * known.case.form.accumulate


def _ddp_time(known: _Known) -> StepTime:
    options = known.case.options
    step = data_parallel_step(
        known.nodes,
        known.cost("all_reduce", narrow=options.get("hook") in _HALF),
        update_s=known.update_s,
        bucket_bytes=float(options.get("bucket_mb", 25.0)) * _MIB,
        overlaps=known.overlaps,
    )
    return replace(step, compute_s=_compute_s(known))


def _ddp_bytes(known: _Known) -> float:
    views = bool(known.case.options.get("gradient_as_bucket_view", False))
    return data_parallel_bytes(known.profile, buckets=not views)


def _reshard(case: Case) -> Reshard:
    choice = str(case.options.get("reshard", "auto"))
    if choice == "yes":
        return "yes"
    return "no" if choice == "no" else "auto"


def _fsdp_time(known: _Known) -> StepTime:
    options = known.case.options
    narrow = options.get("param_dtype") == "bf16"
    reduced = str(options.get("reduce_dtype", "none"))
    return sharded_step(
        units_of(known.profile),
        known.cost("all_gather", narrow=narrow),
        known.cost("reduce_scatter", narrow=reduced == "bf16" or (reduced == "none" and narrow)),
        update_s=known.update_s / known.case.gpus,
        reshard=_reshard(known.case),
        overlaps=known.overlaps,
    )


def _fsdp_bytes(known: _Known) -> float:
    resharded = _reshard(known.case) != "no"
    return sharded_bytes(known.profile, known.case.gpus, resharded=resharded)


_RULES: Mapping[str, _Rule] = {
    "single": _Rule((), _no_refusal, _alone_time, lambda known: alone_bytes(known.profile)),
    "ddp": _Rule(("all_reduce",), _unknown_exchange, _ddp_time, _ddp_bytes),
    "fsdp": _Rule(("all_gather", "reduce_scatter"), _accumulates, _fsdp_time, _fsdp_bytes),
}
"""By framework."""
