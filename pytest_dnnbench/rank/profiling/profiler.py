"""Profiles a model on one device: seconds and bytes of each operator, measured inside whole
training passes.

Nothing is run in isolation, so caches and the allocator are as they are in training, and the parts
sum up to the whole but for the marks themselves. What is kept of an operator is the median over the
repetitions. The whole is timed too, untraced and unmarked, turn about with the marked passes.

Not here: the graph (graph.py), how a pass is marked (marked_pass.py), kept profiles
(profile_cache.py).
"""

import hashlib
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.planner.profile import Node, Profile
from pytest_dnnbench.rank.models import build_model, example_images
from pytest_dnnbench.rank.profiling.conditions import (
    compute_threads,
    environment,
    matmul_precision,
    no_collector,
    usable_device,
)
from pytest_dnnbench.rank.profiling.marked_pass import MarkedPass, whole_pass
from pytest_dnnbench.rank.profiling.operator_graph import OperatorGraph, trace
from pytest_dnnbench.rank.stopwatch import stopwatch

TRACED_IMAGES = 2
"""The smallest batch that batch normalisation takes at any image size: what is traced does not
depend on it."""


SUM_TOLERANCE = 0.15
"""How far the sum of the parts may be from the whole before the profile is in doubt."""

LEAST_CORE_SHARE = 0.9
"""Of the time that a profile took, the part in which this process had a core, below which others
were in its way."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How often a model is run: `warmup` passes that do not count, then `repetitions` that do, of
    either kind."""

    warmup: int = 3
    repetitions: int = 15

    def __post_init__(self) -> None:
        if self.repetitions < 1 or self.warmup < 0:
            raise UsageError(
                f"{self.repetitions} repetitions after {self.warmup} warm-up passes: ask for at least 1 after 0"
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
    """The profile of a model of the catalog, or of "package.module:factory", with fresh weights on
    random images.

    `batch_size` images of `image_size` pixels a side; `precision` is "fp32", "tf32" or "bf16";
    `device` "cpu" or "cuda[:INDEX]"; `threads` compute threads (CPU). Raises UsageError for what
    cannot be built, traced or run.
    """
    place = usable_device(device)
    built = build_model(model, image_size).to(place)
    images = example_images(image_size, batch_size).to(place)
    metadata = {"model": model, "image_size": image_size, "batch_size": batch_size}
    return profile_module(
        built, images, precision, threads=threads, effort=effort, metadata=metadata
    )


def profile_module(
    model: nn.Module,
    images: torch.Tensor,
    precision: str = "fp32",
    *,
    threads: int = 1,
    effort: Effort | None = None,
    metadata: dict[str, Any] | None = None,
) -> Profile:
    """The profile of any module that takes this batch of images and returns one tensor; both on one
    device.

    The module's gradients are cleared and its running statistics move, as in training. `metadata`
    is added to what is always written: precision, device, environment, graph, whole_s and the
    samples it is the median of, and on a CPU core_share, the processor time over the time that it
    took.
    """
    effort = effort or Effort()
    graph = trace(model, images[:TRACED_IMAGES])
    samples = _Samples()
    began, used = time.perf_counter(), time.process_time()
    with compute_threads(threads), matmul_precision(precision), no_collector():
        for repetition in range(effort.warmup + effort.repetitions):
            whole_s = whole_pass(model.train(), images, stopwatch(images.device), precision)
            parts = MarkedPass(graph, images, stopwatch(images.device), precision).run()
            if repetition >= effort.warmup:
                samples.add(whole_s, parts)
    core_share = (time.process_time() - used) / (time.perf_counter() - began)
    model.zero_grad(set_to_none=True)
    return Profile(
        tuple(
            _node(graph, name, samples, owned) for name, owned in _parameter_bytes(graph).items()
        ),
        graph.edges,
        {
            **(metadata or {}),
            "precision": precision,
            "device": images.device.type,
            "environment": environment(images.device, threads),
            "graph": fingerprint(graph),
            "whole_s": statistics.median(samples.whole_s),
            "whole_samples_s": samples.whole_s,
            "warmup": effort.warmup,
            **({"core_share": core_share} if images.device.type == "cpu" else {}),
        },
    )


def parts_over_whole(profile: Profile) -> float:
    """The sum of the operators' times over the time of the whole model: near 1 if the profile can
    be trusted."""
    return profile.parts_s / float(profile.metadata["whole_s"])


def is_trusted(profile: Profile) -> bool:
    """Whether parts and whole agree within SUM_TOLERANCE. If not, the machine was probably busy
    with other work: short operators slip through between its interruptions, the whole does not."""
    return abs(parts_over_whole(profile) - 1) <= SUM_TOLERANCE


def had_its_core(profile: Profile) -> bool:
    """Whether no other work was in the way; on a GPU that is not known here, and not doubted."""
    return float(profile.metadata.get("core_share", 1.0)) >= LEAST_CORE_SHARE


def fingerprint(graph: OperatorGraph) -> str:
    """Twelve hexadecimal digits that change when an operator, its settings or a dependency does."""
    content = repr([(name, graph.description(name)) for name in graph.operators]) + repr(
        graph.edges
    )
    return hashlib.sha256(content.encode()).hexdigest()[:12]


@dataclass(slots=True)
class _Samples:
    """Seconds of every counted repetition, and the sizes of the results."""

    whole_s: list[float] = field(default_factory=list)
    forward_s: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    backward_s: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    result_bytes: dict[str, int] = field(default_factory=dict)

    def add(self, whole_s: float, parts: MarkedPass) -> None:
        self.whole_s.append(whole_s)
        self.result_bytes = parts.result_bytes
        for name in parts.graph.operators:
            self.forward_s[name].append(parts.forward_s[name])
            self.backward_s[name].append(parts.backward_s[name])


def _node(graph: OperatorGraph, name: str, samples: _Samples, parameter_bytes: int) -> Node:
    return Node(
        id=name,
        description=graph.description(name),
        forward_s=statistics.median(samples.forward_s[name]),
        backward_s=statistics.median(samples.backward_s[name]),
        activation_bytes=samples.result_bytes[name],
        parameter_bytes=parameter_bytes,
    )


def _parameter_bytes(graph: OperatorGraph) -> dict[str, int]:
    """Bytes of the parameters that each operator uses, its first user counting for a shared one."""
    counted: set[int] = set()
    own = dict.fromkeys(graph.operators, 0)
    reached: dict[fx.Node, list[nn.Parameter]] = {}
    for node in graph.training.nodes:
        used = _parameters(graph.model, node)
        used += [
            p for value in node.all_input_nodes if value.name not in own for p in reached[value]
        ]
        reached[node] = used
        for parameter in used if node.name in own else ():
            own[node.name] += 0 if id(parameter) in counted else parameter.nbytes
            counted.add(id(parameter))
    return own


def _parameters(model: nn.Module, node: fx.Node) -> list[nn.Parameter]:
    if node.op == "call_module":
        return list(model.get_submodule(str(node.target)).parameters())
    if node.op == "get_attr":
        path, _, name = str(node.target).rpartition(".")
        found = getattr(model.get_submodule(path), name)
        return [found] if isinstance(found, nn.Parameter) else []
    return []
