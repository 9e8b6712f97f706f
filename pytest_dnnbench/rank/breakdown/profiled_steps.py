"""Profiled steps of a rank, after its timed ones: what a step's time goes into.

    timed run ─> report ─> lead-in ─> align ─┤ profiled steps ├─> run-on ─> profile

They are a run of their own. Nothing of them is in the report: neither times nor losses. Not here:
which event is which part (events.py), how a step is divided (timeline.py).
"""

import gzip
import math
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# By name: a clock is taken before any code of the user can replace it in `time`.
from time import monotonic
from typing import Any

import torch
from torch.autograd.profiler import record_function

from pytest_dnnbench.messages import OperatorTime, StepProfile
from pytest_dnnbench.rank import marks
from pytest_dnnbench.rank.agreement import Agreement
from pytest_dnnbench.rank.breakdown.events import (
    CPU_ORDER,
    CUDA_ORDER,
    Event,
    cpu_spans,
    cuda_spans,
)
from pytest_dnnbench.rank.breakdown.timeline import Divided, divide
from pytest_dnnbench.rank.timed_window import Window
from pytest_dnnbench.rank.warmup import whole_turns
from pytest_dnnbench.rank.worker import Stepper
from pytest_dnnbench.step_parts import Part

PROFILED_S = 0.3
"""How long the profiled steps are to take, at the pace of the timed ones."""

LEAST, MOST = 3, 30
"""Profiled steps: of slow models so many are enough, of fast ones more would only make the trace
longer."""

MOST_OPERATORS = 200
"""Operators of a profile: those that take most of a step. More than a record keeps, for launches
and ranks differ in which those are."""

_OPEN, _CLOSE = f"{marks.PREFIX}open", f"{marks.PREFIX}close"


def profile_steps(
    worker: Stepper, window: Window, timed_step_s: float, traces: str | None
) -> StepProfile | None:
    """Runs a few steps under torch's profiler. `timed_step_s` is the time of a step on this rank;
    every rank runs as many steps as the slowest asks for. `traces` is as of a RunRequest. None on a
    rank that completes no two steps."""
    slowest_s = Agreement(worker.place, "profiled").longest(timed_step_s)
    lead = whole_turns(max(1, worker.lead_in), worker.turn)
    steps = whole_turns(steps_for(slowest_s), worker.turn)
    with _profiler(worker.device) as profiler:
        stretch = _run(worker, window, range(lead, lead + steps))
    if stretch is None:
        return None
    events: list[Event] = list(profiler.profiler.kineto_results.events())
    trace, trouble = _keep_trace(profiler, traces, worker.place.rank)
    divided = _divided(events, worker.device)
    if divided is None:
        return None
    if not worker.has_stages:
        divided = divided.renamed("bubble", "communication")
    return _profile(divided, *stretch, trace, trouble)


def steps_for(step_s: float) -> int:
    """How many steps of this length to profile. A step may be too short for the clock: 0 s."""
    if step_s <= PROFILED_S / MOST:
        return MOST
    return max(math.ceil(PROFILED_S / step_s), LEAST)


@contextmanager
def _profiler(device: torch.device) -> Iterator[Any]:
    """torch's profiler, and marks that are seen."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    # Marks on the threads of a pipeline's transfers are seen with this only.
    every_thread = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    marks.switch(True)
    try:
        with torch.profiler.profile(
            activities=activities, experimental_config=every_thread
        ) as profiler:
            yield profiler
    finally:
        marks.switch(False)


def _run(worker: Stepper, window: Window, profiled: range) -> tuple[int, float] | None:
    """Runs the steps with marks around those that count. Returns how many steps of the job they
    are, and their seconds by the host's clock."""
    opened: tuple[int, float] | None = None
    closed: tuple[int, float] | None = None
    for step in worker.run(profiled.stop + worker.run_on):
        if opened is None and step.index + worker.stride >= profiled.start:
            worker.align()
            window.settle()
            _mark(_OPEN)
            opened = (step.index, monotonic())
        elif opened and closed is None and step.index + worker.stride >= profiled.stop:
            window.settle()
            closed = (step.index, monotonic())
            _mark(_CLOSE)
    if opened is None or closed is None:
        return None
    return closed[0] - opened[0], closed[1] - opened[1]


def _mark(name: str) -> None:
    with record_function(name):
        pass


def _divided(events: list[Event], device: torch.device) -> Divided | None:
    """The time between the two marks; None where the profiler has lost one of them."""
    edges = {event.name(): event for event in events if event.name() in (_OPEN, _CLOSE)}
    if len(edges) < 2:
        return None
    opened, closed = edges[_OPEN], edges[_CLOSE]
    window, thread = (opened.end_ns(), closed.start_ns()), opened.start_thread_id()
    if device.type == "cuda":
        return divide(cuda_spans(events, thread), window, CUDA_ORDER)
    return divide(cpu_spans(events, thread), window, CPU_ORDER)


def _profile(divided: Divided, steps: int, seconds: float, trace: str, trouble: str) -> StepProfile:
    parts = defaultdict[Part, float](float)
    for (part, _), ns in divided.ns.items():
        parts[part] += ns / 1e9 / steps
    longest = sorted(divided.ns.items(), key=lambda item: -item[1])[:MOST_OPERATORS]
    return StepProfile(
        steps=steps,
        step_s=seconds / steps,
        parts_s=dict(parts),
        operators=tuple(
            OperatorTime(part, name, ns / 1e9 / steps, divided.calls.get(name, 0) / steps)
            for (part, name), ns in longest
        ),
        trace=trace,
        trouble=trouble,
    )


def _keep_trace(profiler: Any, traces: str | None, rank: int) -> tuple[str, str]:
    """Writes the trace where one is wanted. Returns its path, or why there is none: the figures are
    worth keeping all the same."""
    if traces is None:
        return "", ""
    path = Path(f"{traces}-rank{rank}.json.gz")
    plain = path.with_name(f".{path.name}.{os.getpid()}.json")
    packed = plain.with_suffix(".gz")
    try:
        # Whole or not at all: torch writes to the path that it is given bit by bit.
        profiler.export_chrome_trace(str(plain))
        with plain.open("rb") as source, gzip.open(packed, "wb", compresslevel=3) as target:
            shutil.copyfileobj(source, target)
        packed.replace(path)
    except (OSError, RuntimeError) as error:
        return "", f"rank {rank}: {path} is not written: {error}"
    finally:
        for each in (plain, packed):
            with suppress(OSError):
                each.unlink(missing_ok=True)
    return str(path), ""
