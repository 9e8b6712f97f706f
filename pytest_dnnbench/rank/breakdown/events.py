"""From the events of torch's profiler to spans that a timeline divides (timeline.py).

On CPU ranks the host's own operators are the compute. On CUDA the kernels are, and what the host
does counts only while the device has nothing to do.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from pytest_dnnbench.rank.breakdown.timeline import Span
from pytest_dnnbench.rank.marks import PREFIX
from pytest_dnnbench.step_parts import PARTS, Part

CPU_ORDER: tuple[Part, ...] = ("data", "optimizer", "compute", "communication", "bubble")
"""Which part counts where several threads are at work."""

CUDA_ORDER: tuple[Part, ...] = ("optimizer", "compute", "communication", "data", "bubble")
"""The device's own work comes first: the host runs ahead of it."""

_COLLECTIVE = ("gloo:", "nccl:", "mpi:", "ucc:", "c10d::", "_c10d_functional::", "ncclDevKernel")
SYNCHRONISES = "Synchronize"
"""In the names of the calls by which a host waits for its GPU, as cudaStreamSynchronize."""

_POINT_TO_POINT = ("send", "recv", "sendrecv")
_OPTIMIZER = "Optimizer."
_LOADER = "enumerate(DataLoader)#"
"""Of the mark that torch's DataLoader sets around the wait for its next batch."""
_MOST_NAME = 120


class Event(Protocol):
    """What is read of an event of torch's profiler (torch._C._autograd._KinetoEvent)."""

    def name(self) -> str:
        """Of the operator, kernel or mark."""

    def start_ns(self) -> int:
        """When it began."""

    def end_ns(self) -> int:
        """When it ended."""

    def start_thread_id(self) -> int:
        """The thread that it began on."""

    def end_thread_id(self) -> int:
        """The thread that it ended on."""

    def is_async(self) -> bool:
        """Whether it may overlap others of its thread."""

    def is_user_annotation(self) -> bool:
        """Whether it is a mark, and no operator."""

    def device_type(self) -> Any:
        """The enumeration DeviceType: of CPU or CUDA."""

    def device_resource_id(self) -> int:
        """The stream of a kernel."""

    def correlation_id(self) -> int:
        """Of an operator, by which its kernels name it."""

    def linked_correlation_id(self) -> int:
        """Of a kernel or a call of CUDA's runtime: the operator that it belongs to; 0 without
        one."""


def communication_of(name: str) -> Part | None:
    """The part of what exchanges tensors with other ranks; None for anything else. To send to or
    receive from one rank is how a pipeline waits for another stage."""
    if not name.startswith(_COLLECTIVE):
        return None
    plain = name.removeprefix("ncclDevKernel_").lower()
    verb = plain.replace("::", ":").partition(":")[2] or plain
    return "bubble" if verb.startswith(_POINT_TO_POINT) else "communication"


def host_part(name: str, is_mark: bool) -> tuple[Part | None, bool]:
    """The part of what a thread of a CPU rank does, and whether it owns what runs inside it."""
    if name.startswith(PREFIX):
        word = name.removeprefix(PREFIX).partition(":")[0]
        part = next((part for part in PARTS if part == word), None)
        return part, part in ("data", "optimizer")
    if name.startswith(_OPTIMIZER):
        return "optimizer", True
    if name.startswith(_LOADER):
        return "data", True
    if part := communication_of(name):
        return part, False
    # Inside a mark but in none of its operators it is Python that runs, or waits for an exchange:
    # also where the mark is in a node of the backward pass, as FSDP's are.
    return ("idle" if is_mark else "compute"), False


def cpu_spans(events: Iterable[Event], thread: int) -> list[Span]:
    """The spans of a CPU rank whose step runs in `thread`.

    Of other threads only marks count, as of transfers: what they compute or receive ahead of need,
    the step does not wait for. Collectives are asynchronous events of no thread.
    """
    spans = []
    for event in events:
        name = event.name()
        own, is_mark = event.start_thread_id() == thread, event.is_user_annotation()
        is_async = event.is_async() or event.start_thread_id() != event.end_thread_id()
        part, owner = host_part(name, is_mark)
        counts = own or name.startswith(PREFIX) or (is_async and part == "communication")
        if not counts or (is_async and part not in ("communication", "bubble")):
            continue
        lane = None if is_async else event.start_thread_id()
        spans.append(Span(event.start_ns(), event.end_ns(), part, name[:_MOST_NAME], lane, owner))
    return spans


def cuda_spans(events: Sequence[Event], thread: int) -> list[Span]:
    """The spans of a CUDA rank: its kernels and copies, a lane per stream, and the marks of the
    thread that runs its steps. What the optimiser launched counts as the optimiser's."""
    on_host = [event for event in events if _is_host(event)]
    updates = [
        (event.start_ns(), event.end_ns())
        for event in on_host
        if host_part(event.name(), True)[0] == "optimizer"
    ]
    # Calls of CUDA's runtime have numbers of their own, which are also those of operators; they are
    # linked to an operator, and an operator is linked to nothing.
    launched = {
        event.correlation_id(): event.start_ns()
        for event in on_host
        if not event.linked_correlation_id()
    }
    spans = []
    for event in events:
        name = event.name()
        if _is_host(event):
            if SYNCHRONISES in name:
                # On no lane: calls of CUDA's runtime have thread numbers of their own. It is idle,
                # so that it counts only where the device has nothing to do.
                spans.append(Span(event.start_ns(), event.end_ns(), "idle", name, None))
                continue
            part, owner = host_part(name, True)
            if part in ("data", "bubble") and event.start_thread_id() == thread:
                span = Span(event.start_ns(), event.end_ns(), part, name, thread, owner)
                spans.append(span)
            continue
        if event.is_user_annotation():
            continue  # torch's copy of a host's mark on the device's time line
        part = communication_of(name) or "compute"
        begun = launched.get(event.linked_correlation_id())
        if part == "compute" and begun is not None and _within(begun, updates):
            part = "optimizer"
        lane = -1 - event.device_resource_id()  # below every thread's number
        spans.append(Span(event.start_ns(), event.end_ns(), part, name[:_MOST_NAME], lane))
    return spans


def _is_host(event: Event) -> bool:
    return getattr(event.device_type(), "name", "") == "CPU"


def _within(moment: int, stretches: Sequence[tuple[int, int]]) -> bool:
    return any(start <= moment < end for start, end in stretches)
