"""Where a transfer runs: on a CPU in the calling thread, on a GPU on its own stream, beside the
stream of the compute."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch

from pytest_dnnbench.rank.stopwatch import recorded_event


class Stream(Protocol):
    """A time line of transfers. A mark stands for all work queued before it."""

    def begin_thread(self) -> None:
        """To be called first in a thread of transfers: it works on this device from then on."""

    def running(self) -> AbstractContextManager[object]:
        """Sends the work inside a `with` to this time line."""

    def mark(self) -> Any:
        """Marks the current time line: that of the compute, outside of `running`."""

    def reach(self, mark: Any) -> None:
        """Waits in this thread until the work before a mark is done."""

    def follow(self, mark: Any, tensors: Sequence[torch.Tensor]) -> None:
        """Makes the current time line wait for a mark. From then on it can use the tensors
        safely."""


class HostStream:
    """For CPU tensors: work is done when its call returns, so there is nothing to wait for."""

    def begin_thread(self) -> None:
        """As Stream.begin_thread."""

    def running(self) -> AbstractContextManager[object]:
        """As Stream.running."""
        return nullcontext()

    def mark(self) -> None:
        """As Stream.mark."""

    def reach(self, mark: Any) -> None:
        """As Stream.reach."""

    def follow(self, mark: Any, tensors: Sequence[torch.Tensor]) -> None:
        """As Stream.follow."""


class CudaStream:
    """A CUDA stream. It records every tensor that it takes over with the allocator, which would
    otherwise reuse the memory too early."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch's gap

    def begin_thread(self) -> None:
        """As Stream.begin_thread. A new thread's device is GPU 0, on which leaving `running` would
        then make a context: of hundreds of MB, or refused where the GPU is exclusive."""
        torch.cuda.set_device(self._device)

    def running(self) -> AbstractContextManager[object]:
        """As Stream.running."""
        return torch.cuda.stream(self._stream)

    def mark(self) -> torch.cuda.Event:
        """As Stream.mark."""
        return recorded_event(self._device, timed=False)

    def reach(self, mark: torch.cuda.Event) -> None:
        """As Stream.reach. Other threads of this process go on meanwhile."""
        mark.synchronize()

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
