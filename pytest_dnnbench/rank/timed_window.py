"""The timed window of one rank: its clock, the ends of its steps, its memory peaks and page faults.

Not here: when a window opens and closes (timed_run.py).
"""

import gc
import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# By name: a clock is taken before any code of the user can replace it in `time`.
from time import monotonic
from typing import Any, Protocol

import torch

from pytest_dnnbench.powercap import PackageEnergy
from pytest_dnnbench.rank import rank_phase
from pytest_dnnbench.rank.stopwatch import CudaStopwatch, StreamStopwatch


@dataclass(frozen=True, slots=True)
class Timing:
    """What a window has measured, in seconds of the monotonic clock.

    `peaks` are bytes by the name of the metric (metrics.py); `page_faults` counts the pages that
    the kernel gave to the process without reading a disk. `clock_s` are two readings of the host's
    clock around the timed run up to the window's close, with the kernel's own notes of begin and
    end between them (rank_phase.timing_begins).
    `cpu_energy_j` is what the machine's packages used; None where this rank does not read it.
    """

    start_s: float
    step_ends_s: tuple[float, ...]
    end_s: float
    peaks: dict[str, float]
    page_faults: int
    clock_s: tuple[float, float]
    cpu_energy_j: float | None = None


class NoGarbageCollection:
    """Python's collector of cyclic garbage, off from the begin of a timed run to the close of its
    window: it runs at steps that nobody chose, for milliseconds. Reference counts free everything
    else as ever."""

    def __init__(self) -> None:
        self._was_on = False

    def begin(self) -> None:
        """Collects once, so that the run does not start with the garbage of the build."""
        self._was_on = gc.isenabled()
        gc.collect()
        gc.disable()

    def end(self) -> None:
        """As it was before."""
        if self._was_on:
            gc.enable()


class Window(Protocol):
    """The timed window of one rank on one kind of device."""

    def begin(self) -> None:
        """The timed run begins, with the untimed steps before the window."""

    def settle(self) -> None:
        """Waits for the work that is queued in the current stream."""

    def open(self) -> None:
        """Settles, resets the memory peaks and starts the clock."""

    def mark(self) -> None:
        """A step is complete."""

    def close(self) -> Timing:
        """Stops the clock when the last marked step is complete; without a mark, when the work that
        is queued by now is."""


class CpuWindow:
    """Uses the wall clock. The memory peak is that of the process's resident set: Linux lets a
    process reset that high-water mark. `energy` is given to the one rank that reads it."""

    def __init__(self, energy: PackageEnergy | None = None) -> None:
        self._energy = energy
        self._garbage = NoGarbageCollection()
        self._begun_s = self._start_s = 0.0
        self._marks: list[float] = []
        self._faults = 0

    def begin(self) -> None:
        """As Window.begin."""
        self._garbage.begin()
        self._begun_s = monotonic()
        rank_phase.timing_begins()

    def settle(self) -> None:
        """As Window.settle: nothing is queued."""

    def open(self) -> None:
        """As Window.open."""
        # Without the right to reset the mark, the peak is that of the rank's whole life.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self._marks.clear()
        if self._energy:
            self._energy.begin()
        self._faults = _page_faults()
        self._start_s = monotonic()

    def mark(self) -> None:
        """As Window.mark."""
        self._marks.append(monotonic())

    def close(self) -> Timing:
        """As Window.close."""
        # What follows the last step is not the window's: a rank may lose its core there.
        end_s = self._marks[-1] if self._marks else monotonic()
        faults = _page_faults() - self._faults
        energy_j = self._energy.end() if self._energy else None
        rank_phase.timing_ended()
        clock_s = (self._begun_s, monotonic())
        self._garbage.end()
        status = Path("/proc/self/status").read_text()
        kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
        peaks = {"resident_peak_bytes": int(kib) * 1024.0}
        ends_s = tuple(self._marks)
        return Timing(self._start_s, ends_s, end_s, peaks, faults, clock_s, energy_j)


class DeviceMemory(Protocol):
    """The peaks of a device's allocator."""

    def reset(self) -> None:
        """Starts new peaks."""

    def peaks(self) -> dict[str, float]:
        """Bytes by the name of the metric, since the reset."""


class CudaMemory:
    """The peaks of torch's allocator on one GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def reset(self) -> None:
        """As DeviceMemory.reset."""
        torch.cuda.reset_peak_memory_stats(self._device)

    def peaks(self) -> dict[str, float]:
        """As DeviceMemory.peaks."""
        return {
            "allocated_peak_bytes": float(torch.cuda.max_memory_allocated(self._device)),
            "cached_peak_bytes": float(torch.cuda.max_memory_reserved(self._device)),
        }


class StreamWindow:
    """Ends steps at events of the current stream, so that timing never makes the host wait.

    Waits for its own marks and never for the whole device: other streams may hold transfers of
    minibatches that come after the window, whose time is not the window's. The times of all marks
    are counted from the begin, so that the window ends with its last step.
    """

    def __init__(self, watch: StreamStopwatch, memory: DeviceMemory) -> None:
        self._watch = watch
        self._memory = memory
        self._garbage = NoGarbageCollection()
        self._begun_s = self._start_s = 0.0
        self._opened: Any = None
        self._marks: list[Any] = []
        self._faults = 0

    def begin(self) -> None:
        """As Window.begin."""
        self._garbage.begin()
        self._begun_s = monotonic()
        rank_phase.timing_begins()

    def settle(self) -> None:
        """As Window.settle."""
        self._watch.reach(self._watch.mark())

    def open(self) -> None:
        """As Window.open."""
        self.settle()
        self._memory.reset()
        self._marks.clear()
        self._faults = _page_faults()
        self._start_s = monotonic()
        # Ties the stream's time line to the clock: the stream is idle now.
        self._opened = self._watch.mark()

    def mark(self) -> None:
        """As Window.mark."""
        self._marks.append(self._watch.mark())

    def close(self) -> Timing:
        """As Window.close."""
        last = self._marks[-1] if self._marks else self._watch.mark()
        self._watch.reach(last)
        rank_phase.timing_ended()
        clock_s, faults = (self._begun_s, monotonic()), _page_faults() - self._faults
        self._garbage.end()
        end_s, *ends_s = (
            self._start_s + self._watch.seconds(self._opened, mark) for mark in (last, *self._marks)
        )
        peaks = self._memory.peaks()
        return Timing(self._start_s, tuple(ends_s), end_s, peaks, faults, clock_s)


def window_for(device: torch.device, *, reads_energy: bool = False) -> Window:
    """The timed window for a device. On CPU ranks one rank reads the packages' energy."""
    if device.type == "cuda":
        return StreamWindow(CudaStopwatch(device), CudaMemory(device))
    return CpuWindow(PackageEnergy() if reads_energy else None)


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
