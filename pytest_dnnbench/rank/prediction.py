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

import torch.distributed as dist

from pytest_dnnbench.case import Case
from pytest_dnnbench.errors import DnnbenchError
from pytest_dnnbench.messages import Place, PredictedStep, RunRequest
from pytest_dnnbench.planner.data_parallel import BUCKET_BYTES, StepTime, data_parallel_step
from pytest_dnnbench.planner.fabric import CollectiveCost
from pytest_dnnbench.planner.profile import Operator, Profile
from pytest_dnnbench.planner.sharded import Reshard, sharded_step, units_of
from pytest_dnnbench.planner.training_memory import (
    alone_bytes,
    data_parallel_bytes,
    number_in,
    sharded_bytes,
)
from pytest_dnnbench.rank import group, rank_phase
from pytest_dnnbench.rank.collective_costs import measured_costs
from pytest_dnnbench.rank.profiling.case_profile import case_profile
from pytest_dnnbench.rank.profiling.profiler import Effort, parts_over_whole
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
    time: Callable[["_Measured"], StepTime]
    memory_bytes: Callable[["_Measured"], float]


@dataclass(frozen=True, slots=True)
class _Measured:
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
    def nodes(self) -> tuple[Operator, ...]:
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
        dist.barrier()
        profile, reason = _profile_or_reason(place, request)
        if profile is None:
            return PredictedStep(refused=reason)
        costs = measured_costs(place, rule.collectives)
    if place.rank:
        return None
    overlaps = place.device.startswith("cuda")
    measured = _Measured(case, _adding_up(profile), costs, overlaps)
    time = rule.time(measured)
    return PredictedStep(
        compute_s=time.compute_s,
        exposed_s=time.exposed_s,
        update_s=time.update_s,
        memory_bytes=rule.memory_bytes(measured),
        overlaps=overlaps,
        collectives={
            name: (cost.fixed_s, cost.bytes_s)
            for name, cost in costs.items()
            if place.world_size > 1
        },
        profile_parts_over_whole=parts_over_whole(profile),
    )


def _profile_or_reason(place: Place, request: RunRequest) -> tuple[Profile | None, str]:
    """This rank's profile; where a rank could not make one, none on any rank, and that rank's
    reason: the others must not wait for it in their collectives."""
    profile, reason = None, ""
    try:
        profile = _profile(place, request)
    except DnnbenchError as error:
        reason = str(error)
    reasons = [reason] * place.world_size
    if place.world_size > 1:
        dist.all_gather_object(reasons, reason)
    reason = next(filter(None, reasons), "")
    return (None if reason else profile), reason


def _profile(place: Place, request: RunRequest) -> Profile:
    return case_profile(place, request, _EFFORT)


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


def _alone_time(measured: _Measured) -> StepTime:
    return StepTime(_compute_s(measured), 0.0, measured.update_s)


def _compute_s(measured: _Measured) -> float:
    return measured.profile.parts_s * measured.case.form.accumulate


def _ddp_time(measured: _Measured) -> StepTime:
    options = measured.case.options
    step = data_parallel_step(
        measured.nodes,
        measured.cost("all_reduce", narrow=options.get("hook") in _HALF),
        update_s=measured.update_s,
        bucket_bytes=float(options["bucket_mb"]) * _MIB if "bucket_mb" in options else BUCKET_BYTES,
        overlaps=measured.overlaps,
    )
    return replace(step, compute_s=_compute_s(measured))


def _ddp_bytes(measured: _Measured) -> float:
    views = bool(measured.case.options.get("gradient_as_bucket_view", False))
    return data_parallel_bytes(measured.profile, buckets=not views)


def _reshard(case: Case) -> Reshard:
    choice = str(case.options.get("reshard", "auto"))
    if choice == "yes":
        return "yes"
    return "no" if choice == "no" else "auto"


def _fsdp_time(measured: _Measured) -> StepTime:
    options = measured.case.options
    narrow = options.get("param_dtype") == "bf16"
    reduced = str(options.get("reduce_dtype", "none"))
    return sharded_step(
        units_of(measured.profile),
        measured.cost("all_gather", narrow=narrow),
        measured.cost("reduce_scatter", narrow=reduced == "bf16" or (reduced == "none" and narrow)),
        update_s=measured.update_s / measured.case.gpus,
        reshard=_reshard(measured.case),
        overlaps=measured.overlaps,
    )


def _fsdp_bytes(measured: _Measured) -> float:
    resharded = _reshard(measured.case) != "no"
    return sharded_bytes(measured.profile, measured.case.gpus, resharded=resharded)


_RULES: Mapping[str, _Rule] = {
    "single": _Rule((), _no_refusal, _alone_time, lambda measured: alone_bytes(measured.profile)),
    "ddp": _Rule(("all_reduce",), _unknown_exchange, _ddp_time, _ddp_bytes),
    "fsdp": _Rule(("all_gather", "reduce_scatter"), _accumulates, _fsdp_time, _fsdp_bytes),
}
"""By framework."""
