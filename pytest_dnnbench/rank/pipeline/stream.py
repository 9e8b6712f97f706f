"""Where a transfer runs: in the calling thread on a CPU, on a stream of its own on a GPU, beside
the computing one."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch


class Stream(Protocol):
    """A time line of transfers. A mark stands for all work queued before it."""

    def running(self) -> AbstractContextManager[object]:
        """Work inside a `with` goes to this time line."""

    def mark(self) -> Any:
        """Marks the current time line: the computing one outside of `running`."""

    def follow(self, mark: Any, tensors: Sequence[torch.Tensor]) -> None:
        """Makes the current time line wait for a mark, and use the tensors safely from then on."""


class HostStream:
    """CPU tensors: work is done when its call returns, so there is nothing to wait for."""

    def running(self) -> AbstractContextManager[object]:
        """As Stream.running."""
        return nullcontext()

    def mark(self) -> None:
        """As Stream.mark."""

    def follow(self, mark: Any, tensors: Sequence[torch.Tensor]) -> None:
        """As Stream.follow."""


class CudaStream:
    """A CUDA stream; the allocator is told of every tensor that crosses over, so that it is not
    reused too early."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch's gap

    def running(self) -> AbstractContextManager[object]:
        """As Stream.running."""
        return torch.cuda.stream(self._stream)

    def mark(self) -> torch.cuda.Event:
        """As Stream.mark."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch's gap
        event.record(torch.cuda.current_stream(self._device))
        return event

    def follow(self, mark: torch.cuda.Event, tensors: Sequence[torch.Tensor]) -> None:
        """As Stream.follow."""
        current = torch.cuda.current_stream(self._device)
        current.wait_event(mark)
        for tensor in tensors:
            if tensor.is_cuda:
                tensor.record_stream(current)


def stream_for(device: torch.device) -> Stream:
    """A new time line for transfers of a device."""
    return CudaStream(device) if device.type == "cuda" else HostStream()
