"""The session of one rank: warm-up, the timed window, the report. The only place that reads a
clock.

    connect ─> build ─> warm-up steps ─> align, synchronise, reset peaks ─┤ timed steps ├─> synchronise ─> report

A pipeline runs on for a few steps before the report, so that its last timed steps see it as full as
the others.

Frameworks live behind Worker (worker.py) and never time themselves.
"""

import importlib
import math
import os
import resource
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import torch

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.messages import Correctness, Place, RankReport, RunRequest
from pytest_dnnbench.rank import group, rank_phase
from pytest_dnnbench.rank.worker import Step, Worker

MALLOC_VARIABLES = (
    "LD_PRELOAD",
    "GLIBC_TUNABLES",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
)
"""What decides how the host's memory is handed out, and with it up to a tenth of a step on CPU
ranks."""

_KEPT: list[Worker] = []
"""Keeps a worker to the end of its process: what it holds of a process group must not be torn down
by Python."""

_CLOCKS, _READINGS = (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC), 5


def measure(place: Place, request: RunRequest) -> RankReport:
    """Runs the case's warm-up and timed steps on this rank. Raises WrongResult when the loss is not
    finite."""
    worker = _worker(place, request)
    rank_phase.enter("group")
    worker.connect()
    rank_phase.enter("build")
    worker.build()
    window, loss, timed = window_for(torch.device(place.device)), list[torch.Tensor](), list[Step]()
    open_after, close_after, samples = request.warmup, request.warmup + request.steps, 0
    rank_phase.enter("warm-up", request.warmup)
    steps, closed, asleep_before_s = worker.run(close_after + worker.run_on), None, asleep_s()
    if open_after < worker.stride:  # this rank may have no warm-up step of its own
        _open(worker, window, request.steps)
    for step in steps:
        if step.index >= close_after:
            closed = closed or window.close()  # a rank without timed steps of its own
            continue
        if step.loss is not None:
            loss.append(step.loss)
        if step.index < open_after:
            rank_phase.step(step.index + 1)
            if step.index + worker.stride >= open_after:
                _open(worker, window, request.steps)
            continue
        window.mark()
        worker.own_work.step_done()
        timed.append(step)
        samples += step.samples
        rank_phase.step(step.index + 1 - open_after, samples)
        if step.index + worker.stride >= close_after:
            closed = window.close()
    start, ends, end = closed or window.close()
    suspended_s = asleep_s() - asleep_before_s
    rank_phase.enter("report")
    report = RankReport(
        rank=place.rank,
        window_start_s=start,
        window_end_s=end,
        step_index=tuple(step.index - open_after for step in timed),
        step_end_s=tuple(ends),
        step_samples=tuple(step.samples for step in timed),
        own_work_s=worker.own_work.seconds(),
        samples_per_update=worker.samples_per_update,
        page_faults=window.page_faults,
        loss=_finite([float(value) for value in loss]),
        validation=worker.validation(),
        data=worker.data_facts(),
        environment=environment(place),
        metrics={**window.peaks, **worker.metrics()},
        details=worker.details(),
        fingerprint=worker.fingerprint(),
        suspended_s=suspended_s,
        pipeline=worker.pipeline_facts(),
    )
    rank_phase.enter("teardown")
    worker.close()
    return report


def prove(place: Place, request: RunRequest) -> Correctness:
    """Holds the framework's step against its reference on this rank; nothing is timed."""
    worker = _worker(place, request)
    rank_phase.enter("group")
    worker.connect()
    rank_phase.enter("proof")
    correctness = worker.prove()
    rank_phase.enter("teardown")
    worker.close()
    return correctness


class Window(Protocol):
    """The timed window of one rank on one kind of device."""

    peaks: dict[str, int]
    page_faults: int

    def open(self) -> None:
        """Synchronises, resets the memory peaks and starts the clock."""

    def mark(self) -> None:
        """A step is complete."""

    def close(self) -> tuple[float, list[float], float]:
        """Synchronises; returns the start, the end of each step and the end, in seconds of the
        monotonic clock."""


class CpuWindow:
    """Wall clock; the peak is the process's resident set, whose high-water mark Linux lets a
    process reset."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self.page_faults = 0
        self._start = 0.0
        self._marks: list[float] = []

    def open(self) -> None:
        """As Window.open."""
        with suppress(
            OSError
        ):  # without the right to reset it, the mark covers the rank's whole life
            Path("/proc/self/clear_refs").write_text("5")
        self._marks.clear()
        self.page_faults = -_page_faults()
        self._start = time.monotonic()

    def mark(self) -> None:
        """As Window.mark."""
        self._marks.append(time.monotonic())

    def close(self) -> tuple[float, list[float], float]:
        """As Window.close."""
        end = time.monotonic()
        self.page_faults += _page_faults()
        status = Path("/proc/self/status").read_text()
        kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
        self.peaks = {"resident_peak_bytes": int(kib) * 1024}
        return self._start, self._marks, end


class CudaWindow:
    """Steps end at events on the current stream, so that timing them never holds the host back."""

    def __init__(self, device: torch.device) -> None:
        self.peaks: dict[str, int] = {}
        self.page_faults = 0
        self._device = device
        self._start = 0.0
        self._events: list[torch.cuda.Event] = []

    def open(self) -> None:
        """As Window.open."""
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        self._events.clear()
        self.page_faults = -_page_faults()
        self._start = time.monotonic()
        self.mark()

    def mark(self) -> None:
        """As Window.mark."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call] # torch's gap
        event.record()
        self._events.append(event)

    def close(self) -> tuple[float, list[float], float]:
        """As Window.close."""
        torch.cuda.synchronize(self._device)
        end = time.monotonic()
        self.page_faults += _page_faults()
        self.peaks = {
            "allocated_peak_bytes": torch.cuda.max_memory_allocated(self._device),
            "cached_peak_bytes": torch.cuda.max_memory_reserved(self._device),
        }
        first, *rest = self._events
        return self._start, [self._start + first.elapsed_time(event) / 1e3 for event in rest], end


def asleep_s() -> float:
    """How long the machine has slept since it was started: one clock runs on while it does, the
    other stands still.

    Where this process loses its core between two readings, they tell of that and not of sleep: of
    several pairs the one counts that was read in the shortest time.
    """
    pairs = []
    for _ in range(_READINGS):
        before, running_on, after = (time.clock_gettime(clock) for clock in _CLOCKS)
        pairs.append((after - before, running_on - before))
    return min(pairs)[1]


def window_for(device: torch.device) -> Window:
    """The timed window for a device."""
    return CudaWindow(device) if device.type == "cuda" else CpuWindow()


def environment(place: Place) -> dict[str, Scalar | None]:
    """The versions and settings that only a rank can tell."""
    facts: dict[str, Scalar | None] = {
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "threads_per_rank": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "malloc": " ".join(
            f"{name}={os.environ[name]}" for name in MALLOC_VARIABLES if name in os.environ
        ),
    }
    if place.device.startswith("cuda"):
        major, minor = torch.cuda.get_device_capability(place.device)
        facts |= {
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call] # torch's gap
            "nccl": ".".join(str(part) for part in torch.cuda.nccl.version()),  # type: ignore[no-untyped-call] # torch's gap
            "compute_capability": f"{major}.{minor}",
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
        }
    return facts


def _worker(place: Place, request: RunRequest) -> Worker:
    group.take_place(place)
    set_precision(request.case.precision, place.device)
    module, _, name = request.worker.partition(":")
    kind: type[Worker] = getattr(importlib.import_module(module), name)
    worker = kind(place, request)
    _KEPT.append(worker)
    return worker


def set_precision(precision: str, device: str) -> None:
    """fp32 means IEEE single precision everywhere; tf32 lets a GPU's matrix units round to it; bf16
    is autocast's."""
    if device.startswith("cuda"):
        wanted = "tf32" if precision == "tf32" else "ieee"
        torch.backends.cuda.matmul.fp32_precision = wanted
        torch.backends.cudnn.conv.fp32_precision = wanted  # type: ignore[attr-defined] # missing in torch's types


def _page_faults() -> int:
    """Pages that the kernel has given to this process so far without reading a disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _open(worker: Worker, window: Window, steps: int) -> None:
    worker.align()
    rank_phase.enter("timed steps", steps)
    window.open()
    worker.own_work.restart()


def _finite(losses: list[float]) -> tuple[float, ...]:
    for index, value in enumerate(losses):
        if not math.isfinite(value):
            raise WrongResult(
                f"the loss of step {index} is {value}: the run diverged, so its speed means nothing;"
                " lower the learning rate or check the model",
                step=index,
            )
    return tuple(losses)
