"""Point-to-point transfers that overlap with compute: one thread for each direction of each link.

    rank 0                                  rank 1
    compute ─> Outbox ─ thread ─ group 0>1 ─ thread ─> Inbox ─> compute
    compute <─ Inbox ── thread ─ group 1>0 ─ thread <─ Outbox <─ compute

Each direction has a process group of its own, used by one thread on either side: nothing else is
safe with gloo. A message is a header (how many tensors, a number beside them, types, shapes, which
want a gradient) and its tensors. On a GPU, sends and receives are queued in an order that cannot
block (turns.py), and a send only when its data are computed. A transfer that fails wakes the
computing thread wherever it waits; all threads are daemons, so that a broken peer cannot keep a
rank from ending.
"""

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank import marks
from pytest_dnnbench.rank.pipeline.stage import Tensors
from pytest_dnnbench.rank.pipeline.stream import Stream, stream_for
from pytest_dnnbench.rank.pipeline.turns import NO_TURNS, Turns

_HEADER = 512
"""Integers in a header: room for 70 tensors of 4 dimensions."""

_AHEAD = 2
"""Messages that an inbox receives ahead of need."""

_FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_SENT = (*_FLOATING, torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool)
"""Types that gloo and NCCL send. Others travel as bytes."""

_TYPES = (*_SENT, torch.int16, torch.complex64, torch.complex128)

_Message = tuple[torch.Tensor, Tensors, object]
"""A header, its tensors, and the mark when they are computed."""

_Arrived = tuple[Tensors, int, object]
"""Tensors, the number beside them, and the mark when they are there."""


def _header(tensors: Sequence[torch.Tensor], beside: int) -> torch.Tensor:
    numbers = [len(tensors), beside]
    for tensor in tensors:
        if tensor.dtype not in _TYPES:
            raise UsageError(
                f"a tensor of {tensor.dtype} crosses a cut, which no message takes: cut the model"
                " elsewhere, or give it another type"
            )
        numbers += [
            _TYPES.index(tensor.dtype),
            int(tensor.requires_grad),
            tensor.dim(),
            *tensor.shape,
        ]
    if len(numbers) > _HEADER:
        raise UsageError(
            f"{len(tensors)} tensors cross one cut: too many for a message, cut the model elsewhere"
        )
    return torch.tensor(numbers + [0] * (_HEADER - len(numbers)))


def _blanks(header: torch.Tensor, device: torch.device) -> Tensors:
    """Empty tensors of the types and shapes in a header."""
    count, _, *rest = header.tolist()
    numbers = iter(rest)
    blanks = []
    for _ in range(count):
        dtype, wants_gradient, dimensions = (
            _TYPES[next(numbers)],
            bool(next(numbers)),
            next(numbers),
        )
        shape = [next(numbers) for _ in range(dimensions)]
        blanks.append(torch.empty(shape, dtype=dtype, device=device, requires_grad=wants_gradient))
    return tuple(blanks)


def _as_sent(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory in a type that can be sent."""
    if tensor.dtype in _SENT:
        return tensor
    return tensor.reshape(-1).view(torch.uint8)


@dataclass
class Alarm:
    """The first failed transfer of a rank. It wakes every inbox."""

    inboxes: "list[Inbox]" = field(default_factory=list)
    failure: BaseException | None = None

    def raise_(self, what: str, failure: BaseException) -> None:
        """Keeps the first failure, and wakes every thread that waits for a message."""
        if self.failure is None:
            self.failure = ConnectionError(
                f"{what} failed: {failure}; that rank has ended, or the time-out passed"
            )
            self.failure.__cause__ = failure
        for inbox in self.inboxes:
            inbox.arrived.put(None)

    def check(self) -> None:
        """Raises the failure, if there was one."""
        if self.failure is not None:
            raise self.failure


class Outbox:
    """Sends messages to one rank, in order, from its own thread. `room` bounds how many may
    wait."""

    def __init__(
        self,
        peer: int,
        group: dist.ProcessGroup,
        device: torch.device,
        alarm: Alarm,
        room: int,
        turns: Turns = NO_TURNS,
    ) -> None:
        self._peer = peer
        self._group = group
        self._alarm = alarm
        self._turns = turns
        self._stream = stream_for(device)
        self._waiting: queue.Queue[_Message | threading.Lock | None] = queue.Queue(room)
        self._thread = threading.Thread(target=self._work, name=f"send to rank {peer}", daemon=True)
        self._thread.start()

    def send(self, tensors: Tensors, beside: int = 0) -> None:
        """Queues a message, with a number beside the tensors; they must not be changed afterwards.
        Raises ConnectionError if a transfer has failed."""
        self._alarm.check()
        detached = tuple(tensor.detach().contiguous() for tensor in tensors)
        self._waiting.put((_header(tensors, beside), detached, self._stream.mark()))

    def settle(self) -> None:
        """Waits until the messages sent so far are on their way. Raises ConnectionError if a
        transfer has failed."""
        sent = threading.Lock()
        sent.acquire()
        self._waiting.put(sent)
        sent.acquire()  # given up by the thread, when it comes to it
        self._alarm.check()

    def close(self, timeout_s: float) -> None:
        """Lets the thread end after the queued messages."""
        self._waiting.put(None)
        self._thread.join(timeout_s)

    def _work(self) -> None:
        self._stream.begin_thread()
        while self._send_next():
            pass

    def _send_next(self) -> bool:
        """Sends the next message and lets go of it; False at the end. After a failure it drops the
        messages that are left, so that no sender blocks on a full queue."""
        item = self._waiting.get()
        if not isinstance(item, tuple):
            if item is not None:
                item.release()
            return item is not None
        if self._alarm.failure is None:
            try:
                self._transmit(*item)
            except Exception as failure:
                self._alarm.raise_(f"sending to rank {self._peer}", failure)
        return True

    def _transmit(self, header: torch.Tensor, tensors: Tensors, ready: object) -> None:
        self._turns.await_invitation(self._peer, self._group)
        self._stream.reach(ready)
        with (
            self._turns.sending(self._peer, self._group, header),
            self._stream.running(),
        ):
            self._stream.follow(ready, tensors)
            for tensor in tensors:
                dist.send(_as_sent(tensor), self._peer, self._group)


class Inbox:
    """Receives messages from one rank, a few of them ahead of need, in its own thread."""

    def __init__(
        self,
        peer: int,
        group: dist.ProcessGroup,
        device: torch.device,
        alarm: Alarm,
        turns: Turns = NO_TURNS,
    ) -> None:
        self._peer = peer
        self._group = group
        self._device = device
        self._alarm = alarm
        self._turns = turns
        self._stream: Stream = stream_for(device)
        self._expected: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._room = threading.Semaphore(_AHEAD)
        self.arrived: queue.SimpleQueue[_Arrived | None] = queue.SimpleQueue()
        alarm.inboxes.append(self)
        self._thread = threading.Thread(
            target=self._work, name=f"receive from rank {peer}", daemon=True
        )
        self._thread.start()

    def expect(self, messages: int) -> None:
        """Announces more messages: the thread receives only what is announced."""
        for _ in range(messages):
            self._expected.put(True)

    def take(self) -> tuple[Tensors, int]:
        """The next message, and the number beside it. Raises ConnectionError if a transfer on any
        link has failed."""
        self._alarm.check()
        item = self.arrived.get()
        if item is None:
            self._alarm.check()
            raise AssertionError("an inbox is woken by a failure only")
        self._room.release()
        tensors, beside, ready = item
        self._stream.follow(ready, tensors)
        return tensors, beside

    def close(self, timeout_s: float) -> None:
        """Lets the thread end, once all expected messages have come."""
        self._expected.put(False)
        self._thread.join(timeout_s)

    def _work(self) -> None:
        try:
            self._stream.begin_thread()
            while self._expected.get():
                self._room.acquire()
                self.arrived.put(self._receive())
        except Exception as failure:
            self._alarm.raise_(f"receiving from rank {self._peer}", failure)

    def _receive(self) -> _Arrived:
        self._turns.invite(self._peer, self._group)
        header = torch.empty(_HEADER, dtype=torch.int64)
        dist.recv(header, self._peer, self._group)
        # The header has come, so the sender is ready: from here on the transfer takes the time.
        with (
            marks.mark("communication", "receive"),
            self._turns.receiving(self._peer, self._group, header),
            self._stream.running(),
        ):
            tensors = _blanks(header, self._device)
            for tensor in tensors:
                dist.recv(_as_sent(tensor.detach()), self._peer, self._group)
            return tensors, int(header[1]), self._stream.mark()
