"""A head start of the host over a GPU, so that a profile times kernels and not Python.

A marked pass queues an operator in some 50 us, and a small kernel runs in 5: the GPU would wait for
the host, and the times between marks would be those of Python. So the GPU sleeps first, for longer
than the host needs to queue what is to be timed.

    host   │ sleep, mark, conv1, mark, mark, bn1, mark, ...  │ sleep, mark, layer3, ...
    GPU    ├───── sleeps ─────────────────────────────────┤mark│conv1│mark│mark│bn1│mark ...

How long it sleeps follows from the pass before. A marked pass sleeps before every few operators,
since CUDA lets the host queue about 1,000 kernels ahead; nothing that sleeps is between two marks
of an operator. Plain passes sleep before the forward and before the backward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass

# By name: a clock is taken before any code of the user can replace it in `time`.
from time import perf_counter
from typing import Protocol

import torch

from pytest_dnnbench.rank.stopwatch import recorded_event

OPERATORS = 32
"""Of a marked pass between two head starts: about 100 marks and kernels."""

FIRST_S = 1e-3
"""The first head start."""

MARGIN = 1.5
"""How much longer than the host took in the pass before."""

LONGEST_S = 0.1
"""A host that is slower waits for the GPU, or for room in its queue: it gets no head start."""

Awake = Callable[[], bool]
"""Whether the GPU has slept enough."""


class HeadStart(Protocol):
    """What a pass calls around what it times."""

    def give(self) -> None:
        """Lets the host get ahead in what it queues from now on."""

    def end(self) -> None:
        """All that is timed has been queued."""


class NoHeadStart:
    """For work that is done when its call returns."""

    def give(self) -> None:
        """As HeadStart.give."""

    def end(self) -> None:
        """As HeadStart.end."""


NO_HEAD_START = NoHeadStart()


@dataclass(slots=True)
class GpuHeadStart:
    """Those of one kind of pass. `asleep` lets the GPU sleep for some seconds from where its queue
    ends now.

    Of the pass since `begin_pass`, `host_s` are the seconds in which the host queued what is timed,
    and `lost` says whether the GPU once caught up with it.
    """

    asleep: Callable[[float], Awake]
    clock: Callable[[], float] = perf_counter
    seconds: float = FIRST_S
    host_s: float = 0.0
    lost: bool = False
    _longest_s: float = 0.0
    _begun: tuple[float, Awake | None] | None = None

    def begin_pass(self) -> None:
        """Takes the length of the next head starts from the pass before, if there was one."""
        if self.lost and self.seconds >= LONGEST_S:
            self.seconds = 0.0
        elif self.seconds and self._longest_s:
            self.seconds = min(MARGIN * self._longest_s, LONGEST_S)
        self.host_s, self._longest_s, self.lost = 0.0, 0.0, False

    def give(self) -> None:
        """As HeadStart.give. Ends the one before."""
        self.end()
        awake = self.asleep(self.seconds) if self.seconds else None
        self._begun = self.clock(), awake

    def end(self) -> None:
        """As HeadStart.end."""
        if self._begun is None:
            return
        began_s, awake = self._begun
        took_s = self.clock() - began_s
        self.host_s += took_s
        self._longest_s = max(self._longest_s, took_s)
        self.lost = self.lost or awake is None or awake()
        self._begun = None


def has_head_start(device: torch.device) -> bool:
    """Whether the host queues work on this device and goes on."""
    return device.type == "cuda"


def gpu_head_start(device: torch.device) -> GpuHeadStart:
    """A head start over a GPU, whose sleep is counted in cycles of its clock."""
    cycles = 1 << 22
    start = _slept(device, cycles, timed=True)
    end = _slept(device, cycles, timed=True)
    torch.cuda.synchronize(device)
    rate_hz = cycles / (start.elapsed_time(end) / 1e3)

    def asleep(seconds: float) -> Awake:
        ended = _slept(device, int(seconds * rate_hz), timed=False)
        return lambda: bool(ended.query())  # type: ignore[no-untyped-call] # torch's gap

    return GpuHeadStart(asleep)


def _slept(device: torch.device, cycles: int, *, timed: bool) -> torch.cuda.Event:
    """Lets the GPU sleep; the event comes after it."""
    torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call] # torch's gap
    return recorded_event(device, timed=timed)
