"""The timed window of one rank: its clock, the ends of its steps, its memory peaks and page faults.

Not here: when a window opens and closes (timed_run.py).
"""

import resource
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from pytest_dnnbench.rank.stopwatch import CudaStopwatch


@dataclass(frozen=True, slots=True)
class Timing:
    """What a window has measured, in seconds of the monotonic clock.

    `peaks` are bytes by the name of the metric (metrics.py); `page_faults` counts the pages that
    the kernel gave to the process without reading a disk.
    """

    start_s: float
    step_ends_s: tuple[float, ...]
    end_s: float
    peaks: dict[str, float]
    page_faults: int


class Window(Protocol):
    """The timed window of one rank on one kind of device."""

    def open(self) -> None:
        """Synchronises the device, resets the memory peaks and starts the clock."""

    def mark(self) -> None:
        """A step is complete."""

    def close(self) -> Timing:
        """Synchronises the device and stops the clock."""


class CpuWindow:
    """Uses the wall clock. The memory peak is that of the process's resident set: Linux lets a
    process reset that high-water mark."""

    def __init__(self) -> None:
        self._start_s = 0.0
        self._marks: list[float] = []
        self._faults = 0

    def open(self) -> None:
        """As Window.open."""
        # Without the right to reset the mark, the peak is that of the rank's whole life.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self._marks.clear()
        self._faults = _page_faults()
        self._start_s = time.monotonic()

    def mark(self) -> None:
        """As Window.mark."""
        self._marks.append(time.monotonic())

    def close(self) -> Timing:
        """As Window.close."""
        end_s, faults = time.monotonic(), _page_faults() - self._faults
        status = Path("/proc/self/status").read_text()
        kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
        peaks = {"resident_peak_bytes": int(kib) * 1024.0}
        return Timing(self._start_s, tuple(self._marks), end_s, peaks, faults)


class CudaWindow:
    """Ends steps at events of the current stream, so that timing never makes the host wait."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._watch = CudaStopwatch(device)
        self._start_s = 0.0
        self._marks: list[torch.cuda.Event] = []
        self._faults = 0

    def open(self) -> None:
        """As Window.open."""
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        self._marks.clear()
        self._faults = _page_faults()
        self._start_s = time.monotonic()
        # The first event ties the device's time line to the clock: the device is idle now.
        self.mark()

    def mark(self) -> None:
        """As Window.mark."""
        self._marks.append(self._watch.mark())

    def close(self) -> Timing:
        """As Window.close."""
        torch.cuda.synchronize(self._device)
        end_s, faults = time.monotonic(), _page_faults() - self._faults
        peaks = {
            "allocated_peak_bytes": float(torch.cuda.max_memory_allocated(self._device)),
            "cached_peak_bytes": float(torch.cuda.max_memory_reserved(self._device)),
        }
        opened, *marks = self._marks
        ends_s = tuple(self._start_s + self._watch.seconds(opened, mark) for mark in marks)
        return Timing(self._start_s, ends_s, end_s, peaks, faults)


def window_for(device: torch.device) -> Window:
    """The timed window for a device."""
    return CudaWindow(device) if device.type == "cuda" else CpuWindow()


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
