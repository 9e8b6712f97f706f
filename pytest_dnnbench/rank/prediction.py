"""What a step of a case should take, from what is measured here, once per case, before its
launches.

    all ranks    profile, all at once (kept between sessions) ────────┐
    all ranks    a step of each rank alone ───────────────────────────┤
    GPUs         collectives of the framework, one by one             ├─> rank 0: PredictedStep
    CPU ranks    the framework's step on a model without operators ───┤
    tp           a step of each rank's parts; its collectives ────────┘

On GPUs compute hides communication, as the formulae say (planner/data_parallel.py,
planner/sharded.py). On CPU ranks the cores do both: what a rank takes alone and what the framework
takes without operators come one after the other. So do the two parts of tensor parallelism
everywhere, which take the place of the other steps (split_steps.py).

All ranks profile at the same time, because that is how they train: on one machine they share caches
and memory. A kept profile says how the time is shared out, and the step alone how much it is now.
Not here: pipelines, whose plan has a prediction of its own; the steps (trial_steps.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

import torch.distributed as dist

from pytest_dnnbench.case import Case
from pytest_dnnbench.errors import DnnbenchError
from pytest_dnnbench.messages import Place, PredictedStep, RunRequest
from pytest_dnnbench.planner.data_parallel import BUCKET_BYTES, StepTime, data_parallel_step
from pytest_dnnbench.planner.fabric import FREE, CollectiveCost
from pytest_dnnbench.planner.profile import Operator, Profile, number_in
from pytest_dnnbench.planner.sharded import Reshard, sharded_step, units_of
from pytest_dnnbench.planner.training_memory import (
    alone_bytes,
    data_parallel_bytes,
    sharded_bytes,
    tensor_parallel_bytes,
    weight_bytes,
)
from pytest_dnnbench.rank import group, rank_phase
from pytest_dnnbench.rank.collective_costs import measured_costs
from pytest_dnnbench.rank.frameworks.data_parallel import DataParallelWorker
from pytest_dnnbench.rank.profiling.case_profile import case_profile
from pytest_dnnbench.rank.profiling.profiler import Effort, parts_over_whole
from pytest_dnnbench.rank.trial_steps import alone_seconds, bare_seconds, worker_class
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
    """How a framework's step is predicted: the collectives that it uses; why a case of it cannot be
    predicted; its time where compute hides communication (None: there is no formula), and its
    memory. `splits`: ranks split the layers."""

    collectives: tuple[str, ...]
    refusal: Callable[[Case], str]
    overlapping: Callable[["_Measured"], StepTime] | None
    memory_bytes: Callable[["_Measured"], float]
    splits: bool = False


@dataclass(frozen=True, slots=True)
class _Measured:
    """What was measured: the profile, whose times add up to a step of one rank alone; the costs by
    collective, where compute hides them; `bare_s`, what the framework takes in a step without
    operators, where nothing does; `split`, the step of ranks that split layers, each of which has
    `held` of the weights."""

    case: Case
    profile: Profile
    costs: Mapping[str, CollectiveCost]
    bare_s: float | None = None
    split: StepTime | None = None
    held: float = 1.0

    @property
    def update_s(self) -> float:
        """Of all weights."""
        return number_in(self.profile, "update_s")

    @property
    def compute_s(self) -> float:
        """Of all passes of a step."""
        return self.profile.parts_s * _passes(self.case)

    @property
    def operators(self) -> tuple[Operator, ...]:
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
    rule = _RULES.get(case.framework, _OTHER)
    if reason := _refused_form(case) or rule.refusal(case) or _refused_device(rule, place):
        return PredictedStep(refused=reason)
    if reason := _refused_worker(request):
        return PredictedStep(refused=reason)
    with group.membership(place):
        rank_phase.enter("prediction")
        group.meet()
        profile, reason = _profile_or_reason(place, request)
        if profile is None:
            return PredictedStep(refused=reason)
        measured = _measured(place, request, rule, profile)
    if place.rank:
        return None
    time = _time(rule, measured)
    return PredictedStep(
        compute_s=time.compute_s,
        exposed_s=time.exposed_s,
        update_s=time.update_s,
        memory_bytes=rule.memory_bytes(measured),
        overlaps=_overlaps(place),
        collectives={
            name: (cost.fixed_s, cost.bytes_s)
            for name, cost in measured.costs.items()
            if place.world_size > 1
        },
        profile_parts_over_whole=parts_over_whole(profile),
    )


def _overlaps(place: Place) -> bool:
    """Whether compute hides communication: on CPU ranks the cores do both."""
    return place.device.startswith("cuda")


def _measured(place: Place, request: RunRequest, rule: _Rule, profile: Profile) -> _Measured:
    """What is measured now, beside the profile. All ranks call it."""
    case = request.case
    if rule.splits:
        from pytest_dnnbench.rank.split_steps import split_step

        split, held = split_step(place, request)
        return _Measured(case, profile, {}, split=split, held=held)
    form = replace(case.form, accumulate=_passes(case))
    alone_s = alone_seconds(place, replace(request, case=replace(case, form=form)))
    scaled = _adding_up(profile, alone_s, form.accumulate)
    if not rule.collectives:
        return _Measured(case, scaled, {}, number_in(scaled, "update_s"))
    if _overlaps(place):
        return _Measured(case, scaled, measured_costs(place, rule.collectives))
    return _Measured(case, scaled, {}, bare_seconds(place, request))


def _time(rule: _Rule, measured: _Measured) -> StepTime:
    if measured.split is not None:
        return measured.split
    if measured.bare_s is None:
        assert rule.overlapping is not None, "refused where compute hides communication"
        return rule.overlapping(measured)
    # The framework's own step updates too: a part of the weights, or all of them.
    update_s = min(measured.update_s, measured.bare_s)
    return StepTime(measured.compute_s, measured.bare_s - update_s, update_s)


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


def _adding_up(profile: Profile, alone_s: float, passes: int) -> Profile:
    """The profile with its times scaled to a step of so many passes as it is now. Of short
    operators the parts add up to more than the whole, of a busy machine to less; a kept profile is
    of another hour; and a step has a loss and data besides."""
    update_s = number_in(profile, "update_s")
    factor = alone_s / (profile.parts_s * passes + update_s)
    operators = tuple(
        replace(
            operator, forward_s=operator.forward_s * factor, backward_s=operator.backward_s * factor
        )
        for operator in profile.operators
    )
    return replace(
        profile, operators=operators, metadata={**profile.metadata, "update_s": update_s * factor}
    )


def _passes(case: Case) -> int:
    """Minibatches of a rank in a step."""
    return max(case.form.accumulate, int(case.options.get("backward_passes_per_step", 1)))


def _refused_device(rule: _Rule, place: Place) -> str:
    """Why nothing is known of this device; empty where something is."""
    if rule.collectives and rule.overlapping is None and _overlaps(place):
        return "how much of its exchange a GPU's compute hides is in no formula"
    return ""


def _refused_worker(request: RunRequest) -> str:
    """Why nothing is known of this worker's step; empty where something is."""
    if issubclass(worker_class(request), DataParallelWorker):
        return ""
    return f"{request.worker} is no DataParallelWorker, whose step can run without operators"


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


def _hidden_replicas(case: Case) -> str:
    ranks = int(case.options.get("ranks", 0)) or case.gpus
    if case.device == "cuda" and ranks < case.gpus:
        return "how much of its replicas' exchange a GPU's compute hides is in no formula"
    return ""


def _split_bytes(measured: _Measured) -> float:
    return tensor_parallel_bytes(measured.profile, measured.held)


def _alone_bytes(measured: _Measured) -> float:
    return alone_bytes(measured.profile)


def _ddp_time(measured: _Measured) -> StepTime:
    options = measured.case.options
    step = data_parallel_step(
        measured.operators,
        measured.cost("all_reduce", narrow=options.get("hook") in _HALF),
        update_s=measured.update_s,
        bucket_bytes=float(options["bucket_mb"]) * _MIB if "bucket_mb" in options else BUCKET_BYTES,
    )
    return replace(step, compute_s=measured.compute_s)


def _ddp_bytes(measured: _Measured) -> float:
    views = bool(measured.case.options.get("gradient_as_bucket_view", False))
    return data_parallel_bytes(measured.profile, buckets=not views)


def _reshard(case: Case) -> Reshard:
    choice = str(case.options.get("reshard", "auto"))
    if choice == "yes":
        return "yes"
    return "no" if choice == "no" else "auto"


def _fsdp_time(measured: _Measured) -> StepTime:
    case, options = measured.case, measured.case.options
    narrow = options.get("param_dtype") == "bf16"
    reduced = str(options.get("reduce_dtype", "none"))
    units, gather = units_of(measured.profile), measured.cost("all_gather", narrow=narrow)
    scatter = measured.cost(
        "reduce_scatter", narrow=reduced == "bf16" or (reduced == "none" and narrow)
    )
    reshard = _reshard(case)
    last = sharded_step(units, gather, scatter, reshard=reshard)
    other = last
    if _keeps_gradients(case):
        other = sharded_step(units, gather, FREE, reshard=reshard)
    exposed_s = last.exposed_s + (case.form.accumulate - 1) * other.exposed_s
    return StepTime(measured.compute_s, exposed_s, measured.update_s / case.gpus)


def _keeps_gradients(case: Case) -> bool:
    """Whether a rank of fsdp keeps whole gradients until the last backward pass of a step."""
    return case.form.accumulate > 1 and case.options.get("reduce") == "last"


def _fsdp_bytes(measured: _Measured) -> float:
    case, profile = measured.case, measured.profile
    gradients = weight_bytes(profile) if _keeps_gradients(case) else 0.0
    return sharded_bytes(profile, case.gpus, resharded=_reshard(case) != "no") + gradients


_RULES: Mapping[str, _Rule] = {
    "single": _Rule((), _no_refusal, None, _alone_bytes),
    "ddp": _Rule(("all_reduce",), _unknown_exchange, _ddp_time, _ddp_bytes),
    "horovod": _Rule(("all_reduce",), _no_refusal, None, _ddp_bytes),
    "tp": _Rule((), _hidden_replicas, None, _split_bytes, splits=True),
    "fsdp": _Rule(("all_gather", "reduce_scatter"), _no_refusal, _fsdp_time, _fsdp_bytes),
}
"""By framework."""

_OTHER = _Rule(("all_reduce",), _no_refusal, None, _alone_bytes)
"""Of a framework of another package: what its ranks exchange is unknown, and part of its step."""
