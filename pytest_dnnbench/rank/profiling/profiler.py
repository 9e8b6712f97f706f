"""Profiles a model on one device: seconds and bytes of each operator, measured inside whole
training passes.

No operator runs in isolation: caches and the allocator are as in training, and the parts add up to
the whole, except for the marks themselves. The time of an operator is the median over the
repetitions. The whole is timed too, untraced and without marks, in turn with the marked passes. On
a GPU both are its own times, whatever the host takes (head_start.py): where they disagree all the
same, the operators' are scaled to the whole, or the profile is refused.

Not here: the graph (operator_graph.py), the marks of a pass (marked_pass.py), kept profiles
(profile_cache.py).
"""

import dataclasses
import hashlib
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pytest_dnnbench.case import Case
from pytest_dnnbench.errors import ProfileError, UsageError
from pytest_dnnbench.messages import RunRequest
from pytest_dnnbench.planner.profile import Operator, Profile
from pytest_dnnbench.planner.remarks import SUM_TOLERANCE
from pytest_dnnbench.rank.precision import matmul_precision
from pytest_dnnbench.rank.profiling.backward_halves import halves_facts
from pytest_dnnbench.rank.profiling.conditions import (
    compute_threads,
    no_collector,
    profile_environment,
    usable_device,
)
from pytest_dnnbench.rank.profiling.example_input import (
    TRACED_IMAGES,
    Example,
    example_input,
    of_tensor,
    traced_example,
)
from pytest_dnnbench.rank.profiling.head_start import (
    NO_HEAD_START,
    GpuHeadStart,
    gpu_head_start,
    has_head_start,
)
from pytest_dnnbench.rank.profiling.marked_pass import MarkedPass, whole_pass
from pytest_dnnbench.rank.profiling.operator_graph import OperatorGraph, trace
from pytest_dnnbench.rank.profiling.passed_through import inputs_of, outputs_of
from pytest_dnnbench.rank.profiling.update_time import update_facts
from pytest_dnnbench.rank.profiling.weights import block_of, tensors_used, together
from pytest_dnnbench.rank.step_forms import laid_out, lay_out
from pytest_dnnbench.rank.stopwatch import stopwatch
from pytest_dnnbench.rank.workloads.checks import model_of
from pytest_dnnbench.rank.workloads.factory import workload_of
from pytest_dnnbench.rank.workloads.image_workload import ImageWorkload
from pytest_dnnbench.rank.workloads.structure import Structure, tensors_of
from pytest_dnnbench.rank.workloads.workload import Workload
from pytest_dnnbench.step_form import StepForm

LEAST_CORE_SHARE = 0.9
"""The fraction of the time in which this process must have had a core. Below it, other work was in
the way."""

MOST_DISAGREEMENT = 3.0
"""How many times longer or shorter than the whole the parts of a GPU's profile may be: times that
are farther off say nothing about the operators."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How often a model is run: `warmup` passes that do not count, then `repetitions` passes that
    do, each plain and with marks."""

    warmup: int = 3
    repetitions: int = 15

    def __post_init__(self) -> None:
        if self.repetitions < 1 or self.warmup < 0:
            raise UsageError(
                f"{self.repetitions} repetitions after {self.warmup} warm-up passes:"
                " ask for at least 1 after 0"
            )


def profile_model(
    model: str,
    image_size: int,
    batch_size: int,
    precision: str,
    device: str,
    *,
    threads: int = 1,
    effort: Effort | None = None,
) -> Profile:
    """The profile of the model or workload "package.module:factory", with fresh weights on a
    synthetic minibatch.

    `batch_size` samples, images of `image_size` pixels a side; `precision` is "fp32", "tf32" or
    "bf16"; `device` "cpu" or "cuda[:INDEX]"; `threads` compute threads (CPU). Raises UsageError for
    a model that cannot be built or traced, and for conditions that cannot be.
    """
    workload = image_or_own(model, image_size)
    return profile_workload(
        workload, model, image_size, batch_size, precision, device, threads=threads, effort=effort
    )


def image_or_own(model: str, image_size: int) -> Workload:
    """The workload behind "package.module:factory", on synthetic data."""
    case = Case("single", model, 1, "train", image_size=image_size)
    return workload_of(RunRequest(case, "", model, 1, 0))


def input_facts(workload: Workload) -> dict[str, str]:
    """Shape and type of one sample, where it is no image of the profile's size."""
    if isinstance(workload, ImageWorkload):
        return {}
    sample = example_input(workload, TRACED_IMAGES)
    if isinstance(sample, torch.Tensor):
        return {"inputs": f"{list(sample.shape[1:])} of {_type(sample)}"}
    row = zip(Structure(sample).names, tensors_of(sample), strict=True)
    shapes = (f"{name}: {list(each.shape)} of {_type(each)}" for name, each in row)
    return {"inputs": f"of {TRACED_IMAGES} samples: {', '.join(shapes)}"}


def _type(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def profile_workload(
    workload: Workload,
    model: str,
    image_size: int,
    batch_size: int,
    precision: str,
    device: str,
    *,
    threads: int = 1,
    effort: Effort | None = None,
    form: StepForm | None = None,
) -> Profile:
    """As `profile_model`, of a workload that is there already, laid out and updated as in this form
    of a step. `model` and `image_size` are for the record."""
    place = usable_device(device)
    form, effort = form or StepForm(), effort or Effort()
    built = model_of(workload).to(place)
    lay_out(built, form)
    inputs, _ = laid_out((example_input(workload, batch_size, device=place), ()), form)
    metadata = {"model": model, "image_size": image_size, "batch_size": batch_size}
    metadata |= input_facts(workload) | form_facts(form)
    profile = profile_module(
        built,
        inputs,
        precision,
        threads=threads,
        effort=effort,
        metadata=metadata,
        blocks=workload.blocks(built),
        example=traced_example(workload, place),
    )
    with compute_threads(threads), no_collector():
        update = update_facts(
            workload,
            built,
            warmup=effort.warmup,
            repetitions=effort.repetitions,
            fused=form.fused,
        )
        halves = halves_facts(built, inputs)
    return dataclasses.replace(profile, metadata={**profile.metadata, **update, **halves})


def form_facts(form: StepForm) -> dict[str, str]:
    """What a profile depends on of a step's form, where it is not the plain one."""
    facts: dict[str, str] = {}
    if form.memory_format != StepForm().memory_format:
        facts["memory_format"] = form.memory_format
    if form.fused:
        facts["update"] = "fused"
    if form.cudnn_benchmark:
        facts["cudnn"] = "benchmark"
    return facts


def profile_module(
    model: nn.Module,
    inputs: Any,
    precision: str = "fp32",
    *,
    threads: int = 1,
    effort: Effort | None = None,
    metadata: dict[str, Any] | None = None,
    blocks: Sequence[str] = (),
    example: Example | None = None,
) -> Profile:
    """The profile of any module that takes these inputs, on its device. `example` has smaller ones,
    which it is traced with; unless given, the first samples of one tensor.

    The module's gradients are cleared and its running statistics move, as in training. The profile
    has this `metadata` beside what it always has: precision, device, environment, graph, whole_s
    and its samples, and on a CPU core_share, processor time over the time taken. On a GPU it has
    host_s, the seconds in which the host queued a whole pass, and host_ahead, whether it was ahead
    of the GPU in most passes. `blocks` are names of submodules; metadata of that name says in which
    an operator's weights are. Raises ProfileError for a GPU's times that mean nothing.
    """
    effort = effort or Effort()
    graph = trace(model, example or of_tensor(inputs[:TRACED_IMAGES]))
    device = next(tensors_of(inputs)).device
    began, used = time.perf_counter(), time.process_time()
    with compute_threads(threads), matmul_precision(precision), no_collector():
        samples = _sampled(graph, inputs, precision, effort)
    core_share = (time.process_time() - used) / (time.perf_counter() - began)
    model.zero_grad(set_to_none=True)
    facts = {
        "precision": precision,
        "device": device.type,
        "environment": profile_environment(device, threads),
        "graph": fingerprint(graph),
        "warmup": effort.warmup,
        "blocks": block_of(graph, blocks),
        **_facts_of_the_whole(samples),
    }
    if device.type == "cpu":
        facts["core_share"] = core_share
    operators = tuple(
        _operator(graph, name, samples, size) for name, size in _parameter_bytes(graph)
    )
    return agreeing(
        Profile(
            operators,
            graph.edges,
            (metadata or {}) | facts,
            together(graph),
            inputs_of(graph, inputs),
            outputs_of(graph),
        )
    )


def _facts_of_the_whole(samples: "_Samples") -> dict[str, Any]:
    """The times of whole passes and, on a GPU, how long the host took to queue one."""
    facts: dict[str, Any] = {
        "whole_s": statistics.median(samples.whole_s),
        "whole_samples_s": samples.whole_s,
    }
    if samples.host_s:
        facts["host_s"] = statistics.median(samples.host_s)
        facts["host_ahead"] = 2 * samples.ahead > len(samples.host_s)
    return facts


def agreeing(profile: Profile) -> Profile:
    """The profile, its operators' times scaled to that of the whole model where both are the GPU's
    own and disagree; `parts_over_whole` in its metadata then keeps what was measured. Raises
    ProfileError beyond MOST_DISAGREEMENT."""
    ratio = parts_over_whole(profile)
    if not profile.metadata.get("host_ahead") or abs(ratio - 1) <= SUM_TOLERANCE:
        return profile
    if not 1 / MOST_DISAGREEMENT <= ratio <= MOST_DISAGREEMENT:
        raise ProfileError(
            f"the operators take {profile.parts_s * 1e3:.3g} ms one by one and the whole model"
            f" {float(profile.metadata['whole_s']) * 1e3:.3g} ms: farther apart than a factor of"
            f" {MOST_DISAGREEMENT:g}, these times say nothing; profile again while nothing else"
            " uses the GPU, or take larger minibatches"
        )
    operators = tuple(
        dataclasses.replace(
            operator, forward_s=operator.forward_s / ratio, backward_s=operator.backward_s / ratio
        )
        for operator in profile.operators
    )
    facts = {**profile.metadata, "parts_over_whole": ratio}
    return dataclasses.replace(profile, operators=operators, metadata=facts)


def _sampled(graph: OperatorGraph, inputs: Any, precision: str, effort: Effort) -> "_Samples":
    """Plain and marked passes in turn: a drift of the machine's speed meets both alike."""
    samples, heads, device = _Samples(), _Heads(), next(tensors_of(inputs)).device
    if has_head_start(device):
        heads = _Heads(gpu_head_start(device), gpu_head_start(device))
    for repetition in range(effort.warmup + effort.repetitions):
        watch = stopwatch(device)
        heads.begin_pass()
        head = heads.whole or NO_HEAD_START
        whole_s = whole_pass(graph.model.train(), inputs, watch, precision, head, graph.forward)
        head = heads.marked or NO_HEAD_START
        parts = MarkedPass(graph, inputs, watch, precision, head).run()
        if repetition >= effort.warmup:
            samples.add(whole_s, parts, heads)
    return samples


@dataclass(frozen=True, slots=True)
class _Heads:
    """The head starts of plain and of marked passes; None on a CPU."""

    whole: GpuHeadStart | None = None
    marked: GpuHeadStart | None = None

    def begin_pass(self) -> None:
        for head in filter(None, (self.whole, self.marked)):
            head.begin_pass()


def parts_over_whole(profile: Profile) -> float:
    """The sum of the operators' times, as measured, over the time of the whole model: near 1 in a
    profile that can be trusted."""
    ratio = profile.parts_over_whole
    assert ratio is not None, "every profile of ours has the whole"
    return ratio


def is_trusted(profile: Profile) -> bool:
    """Whether parts and whole agree within SUM_TOLERANCE. If not, the machine was probably busy
    with other work: it interrupts the whole, while short operators run between the
    interruptions."""
    return abs(parts_over_whole(profile) - 1) <= SUM_TOLERANCE


def had_its_core(profile: Profile) -> bool:
    """Whether no other work was in the way but that of the ranks beside it, which share the cores
    where there are not enough. Of a GPU this is unknown, and taken as true."""
    ranks = 1 + int(profile.metadata.get("beside", 0))
    threads = int(profile.metadata.get("environment", {}).get("threads", 1))
    share = min(1.0, len(os.sched_getaffinity(0)) / (ranks * threads))
    return bool(float(profile.metadata.get("core_share", 1.0)) >= LEAST_CORE_SHARE * share)


def fingerprint(graph: OperatorGraph) -> str:
    """Twelve hexadecimal digits that change when an operator, its settings, a dependency or a group
    that stays together does."""
    content = repr([(name, graph.description(name)) for name in graph.operators])
    content += repr(graph.edges) + repr(together(graph))
    return hashlib.sha256(content.encode()).hexdigest()[:12]


@dataclass(slots=True)
class _Samples:
    """Seconds of every counted repetition, and the sizes of the results. On a GPU also in how many
    of them the host was ahead, and how long it took for each plain pass."""

    ahead: int = 0
    host_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)
    forward_s: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    backward_s: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    result_bytes: dict[str, int] = field(default_factory=dict)

    def add(self, whole_s: float, parts: MarkedPass, heads: _Heads) -> None:
        if heads.whole and heads.marked:
            self.host_s.append(heads.whole.host_s)
            self.ahead += not (heads.whole.lost or heads.marked.lost)
        self.whole_s.append(whole_s)
        self.result_bytes = parts.result_bytes
        for name in parts.graph.operators:
            self.forward_s[name].append(parts.forward_s[name])
            self.backward_s[name].append(parts.backward_s[name])


def _operator(graph: OperatorGraph, name: str, samples: _Samples, parameter_bytes: int) -> Operator:
    return Operator(
        id=name,
        description=graph.description(name),
        forward_s=statistics.median(samples.forward_s[name]),
        backward_s=statistics.median(samples.backward_s[name]),
        activation_bytes=samples.result_bytes[name],
        parameter_bytes=parameter_bytes,
    )


def _parameter_bytes(graph: OperatorGraph) -> Iterator[tuple[str, int]]:
    """Each operator with the bytes of the parameters that it uses. A shared parameter counts for
    its first user."""
    counted: set[int] = set()
    for name, tensors in tensors_used(graph).items():
        size = 0
        for parameter in tensors:
            if isinstance(parameter, nn.Parameter) and id(parameter) not in counted:
                counted.add(id(parameter))
                size += parameter.nbytes
        yield name, size
