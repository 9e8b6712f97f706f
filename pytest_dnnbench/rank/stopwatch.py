"""Moments on a device's own time line: the host's clock for a CPU, events of the current stream for
CUDA."""

# By name: a clock is taken before any code of the user can replace it in `time`.
from time import perf_counter
from typing import Any, Protocol

import torch


class Stopwatch(Protocol):
    """Marks moments while work is queued, and says afterwards how far apart they are."""

    def mark(self) -> Any:
        """The moment when all work queued so far is done; does not wait for it."""

    def settle(self) -> None:
        """Waits until all marked moments have come."""

    def seconds(self, start: Any, end: Any) -> float:
        """The time from one mark to a later one, once settled."""


class StreamStopwatch(Stopwatch, Protocol):
    """A stopwatch whose marks can be waited for one by one."""

    def reach(self, mark: Any) -> None:
        """Waits until a marked moment has come, and for nothing that was queued after it."""


class HostStopwatch:
    """For work that is done when its call returns."""

    def mark(self) -> float:
        """Seconds of the monotonic clock."""
        return perf_counter()

    def settle(self) -> None:
        """Nothing is outstanding."""

    def seconds(self, start: float, end: float) -> float:
        """The difference of two marks."""
        return end - start


class CudaStopwatch:
    """For work that runs later, in the order of a CUDA stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def mark(self) -> torch.cuda.Event:
        """An event in the current stream. The backward pass runs in the stream of its forward
        pass."""
        return recorded_event(self._device, timed=True)

    def reach(self, mark: torch.cuda.Event) -> None:
        """Waits for the event."""
        mark.synchronize()

    def settle(self) -> None:
        """Waits for the device."""
        torch.cuda.synchronize(self._device)

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """The device's time between two events, which CUDA gives in milliseconds."""
        return float(start.elapsed_time(end)) / 1e3


def recorded_event(device: torch.device, *, timed: bool) -> torch.cuda.Event:
    """A new event at the present end of the device's current stream. Without `timed` it has no time
    and serves to wait for, which is cheaper; a thread that does sleeps, and leaves its core to
    others."""
    event = torch.cuda.Event(  # type: ignore[no-untyped-call] # torch's gap
        enable_timing=timed, blocking=not timed
    )
    event.record(torch.cuda.current_stream(device))
    return event


def stopwatch(device: torch.device) -> Stopwatch:
    """The stopwatch of a device."""
    return CudaStopwatch(device) if device.type == "cuda" else HostStopwatch()
