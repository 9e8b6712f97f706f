"""The order in which a rank puts messages and collectives on its GPU: one at a time, by its turn.

NCCL's kernels wait on the GPU: a send for its receive, an all-reduce for all its ranks. Whatever is
queued behind a kernel waits with it, and CUDA promises no more than that queues advance in order:
two streams may share one (with CUDA_DEVICE_MAX_CONNECTIONS=1 all do). NCCL asks for the same thing:
no calls for one device from several threads at once, and operations of several communicators in one
order on all ranks. Two ranks that send to each other, each with the receive queued behind its own
send, wait for ever.

A transfer is a send on one rank and its receive on another. Each rank has one turn, a lock; both
ranks queue their part while they have their turns, and there is a moment at which both have them:

    a message up (rank 0 to 1)                  a message down (rank 1 to 0)
    0              1                            0              1
    │ <── invites ─┤ has room                   ├─ invites ──> │
    │ waits until the data are computed         │              │ waits until the data are computed
    ╞ takes turn   │                            │ <── header ──┤
    ├── header ──> │                            ╞ takes turn   │
    │              ╞ takes turn                 ├── go ──────> │
    │ <── has it ──┤                            │              ╞ takes turn
    │ send queued  │ receive queued             │ <── has it ──┤
    ╘ gives it up  ╘ gives it up                │ receive      │ send queued
                                                ╘ gives it up  ╘ gives it up

Why nothing waits for ever:

1. On the host. Of two turns, the lower rank's is taken first. Whoever waits with a turn in hand
   waits for a higher rank's turn alone: its peer's thread has invited, or has its data ready, and
   does nothing else meanwhile. So the holder of the highest turn that is held waits for nobody,
   and gives it up. Nobody waits for data, for room in an inbox or for another rank's computing
   thread with a turn in hand.
2. On the GPUs. Order all transfers by the moments at which both turns were held. On every rank the
   queue holds its parts in that order, even if it has only one queue. Compute waits only for
   receives queued before it. Then the first unfinished transfer has nothing unfinished before it on
   either rank but compute, which waits for nothing unfinished; so it runs, and by induction all do.
   A host call that waits for the whole device, as when memory is freed or a kernel is loaded, waits
   for what is queued, which finishes.

A collective of several ranks is a transfer of all of them: first all computing threads arrive, then
they take their turns from the lowest rank up. Since a send is queued when its data are computed, a
receive never occupies the GPU for longer than the transfer, and the header tells the receiver's
host no earlier than that (how far hosts run ahead: run_ahead.py).

On CPU ranks gloo's calls wait in their own thread and hold nobody else up: there are no turns. Nor
are there any without links: the collectives of one stage's replicas come in one order anyway.
"""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
import torch.distributed as dist


class Turns(Protocol):
    """What transfers and collectives of one rank do around the calls that queue them. `group` is
    the process group of the two ranks, whose messages between hosts need no GPU."""

    def invite(self, peer: int, group: dist.ProcessGroup) -> None:
        """Tells a sender that this rank expects a message and has room for it."""

    def await_invitation(self, peer: int, group: dist.ProcessGroup) -> None:
        """Waits until the receiver has room for a message."""

    def sending(
        self, peer: int, group: dist.ProcessGroup, header: torch.Tensor
    ) -> AbstractContextManager[None]:
        """Sends the header; inside the `with` the sends of its tensors may be queued."""

    def receiving(
        self, peer: int, group: dist.ProcessGroup, header: torch.Tensor
    ) -> AbstractContextManager[None]:
        """After this header has come; inside the `with` the receives may be queued."""

    def together(self, group: dist.ProcessGroup | None) -> AbstractContextManager[None]:
        """Waits for the computing threads of all ranks of a group, None for all ranks of the job;
        inside the `with` a collective may be queued."""


class NoTurns:
    """For ranks whose transfers hold nobody up. The receiver learns of a message at once."""

    def invite(self, peer: int, group: dist.ProcessGroup) -> None:
        """As Turns.invite."""

    def await_invitation(self, peer: int, group: dist.ProcessGroup) -> None:
        """As Turns.await_invitation."""

    @contextmanager
    def sending(self, peer: int, group: dist.ProcessGroup, header: torch.Tensor) -> Iterator[None]:
        """As Turns.sending."""
        dist.send(header, peer, group)
        yield

    @contextmanager
    def receiving(
        self, peer: int, group: dist.ProcessGroup, header: torch.Tensor
    ) -> Iterator[None]:
        """As Turns.receiving."""
        yield

    @contextmanager
    def together(self, group: dist.ProcessGroup | None) -> Iterator[None]:
        """As Turns.together."""
        yield


NO_TURNS = NoTurns()


class RankTurns:
    """The turn of one rank of a pipeline on GPUs. A message without tensors, whose header says so
    by a leading 0, takes no turn."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._turn = threading.Lock()

    def invite(self, peer: int, group: dist.ProcessGroup) -> None:
        """As Turns.invite."""
        _say(peer, group)

    def await_invitation(self, peer: int, group: dist.ProcessGroup) -> None:
        """As Turns.await_invitation."""
        _hear(peer, group)

    @contextmanager
    def sending(self, peer: int, group: dist.ProcessGroup, header: torch.Tensor) -> Iterator[None]:
        """As Turns.sending."""
        if not header[0]:
            dist.send(header, peer, group)
            yield
        elif self._rank < peer:
            with self._turn:
                dist.send(header, peer, group)
                _hear(peer, group)  # the receiver has its turn too
                yield
        else:
            dist.send(header, peer, group)
            _hear(peer, group)  # the receiver has its turn
            with self._turn:
                _say(peer, group)
                yield

    @contextmanager
    def receiving(
        self, peer: int, group: dist.ProcessGroup, header: torch.Tensor
    ) -> Iterator[None]:
        """As Turns.receiving."""
        if not header[0]:
            yield
            return
        with self._turn:
            _say(peer, group)
            if self._rank < peer:
                _hear(peer, group)  # the sender has its turn too
            yield

    @contextmanager
    def together(self, group: dist.ProcessGroup | None) -> Iterator[None]:
        """As Turns.together."""
        ranks = sorted(dist.get_process_group_ranks(group))
        place = ranks.index(self._rank)
        first, last = ranks[0], ranks[-1]
        if self._rank != first:
            _say(first, group)
            _hear(ranks[place - 1], group)  # all have arrived, and those before have their turns
        else:
            for rank in ranks[1:]:
                _hear(rank, group)
        with self._turn:
            if self._rank != last:
                _say(ranks[place + 1], group)
                _hear(last, group)
            else:
                for rank in ranks[:-1]:
                    _say(rank, group)
            yield


def turns_of(rank: int, stages: int, device: torch.device) -> Turns:
    """Those of a rank in a pipeline of so many stages."""
    return RankTurns(rank) if device.type == "cuda" and stages > 1 else NO_TURNS


def _say(peer: int, group: dist.ProcessGroup | None) -> None:
    dist.send(torch.zeros(1, dtype=torch.uint8), peer, group)


def _hear(peer: int, group: dist.ProcessGroup | None) -> None:
    dist.recv(torch.empty(1, dtype=torch.uint8), peer, group)
