"""Collectives of torch.distributed and of Horovod as functions to time: bench_cases/
test_collectives.py does. Their bandwidths: collectives.py of the package.

Each is made with its size in bytes as nccl-tests counts it, of float32 elements, and returns it
from every step. A step works on the same buffers again, as a training step does; `check` looks at
the values of one.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.distributed as dist

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.messages import Place
from pytest_dnnbench.rank.marks import mark

_BYTES = 4
"""Of a float32."""

MOST_RANKS = 2048
"""Sums of the values that so many ranks give are whole numbers below 2**24, which float32 holds
exactly."""


class Collective(ABC):
    """One collective on one rank. `source` is what the rank gives, `target` what it gets; they may
    be the same buffer.

    `give` fills the source with values that differ by rank and place, and `expected` says what the
    target then holds after a step: whole numbers whose sums are exact in any order. The timed
    steps work on zeros, which stay what they are.
    """

    whole = False
    """Whether the source has the whole size; else it has a rank's share of it."""
    gets_whole = True
    """Whether the target has the whole size."""

    def __init__(self, size: int, place: Place) -> None:
        self.rank, self.ranks, self.size = place.rank, place.world_size, size
        if self.ranks > MOST_RANKS:
            raise UsageError(
                f"a collective of {self.ranks} ranks is not offered: its values are checked"
                f" exactly, and float32 has room for the sums of at most {MOST_RANKS} ranks"
            )
        if size < 1 or size % (_BYTES * self.ranks):
            raise UsageError(
                f"a collective of {size} bytes cannot be divided by {self.ranks} ranks: give a"
                f" multiple of {_BYTES * self.ranks}"
            )
        elements = size // _BYTES
        share = elements // self.ranks
        self.source = torch.zeros(elements if self.whole else share, device=place.device)
        self.target = torch.zeros(elements if self.gets_whole else share, device=place.device)

    def __call__(self) -> int:
        """One step. Returns the size."""
        self.exchange()
        return self.size

    @abstractmethod
    def exchange(self) -> None:
        """Runs the collective once, to its end in the current stream."""

    def give(self) -> None:
        """Fills the source."""
        self.source.copy_(self.given(self.rank))
        self.target.zero_()

    def given(self, rank: int) -> torch.Tensor:
        """What a rank gives: below 8192, so that the sum over up to MOST_RANKS is exact."""
        places = torch.arange(len(self.source), device=self.source.device)
        return ((places + rank) % 1021 + 1024 * (rank % 7)).to(torch.float32)

    @abstractmethod
    def expected(self) -> torch.Tensor:
        """What this rank gets when every rank has given."""

    def sum_of_given(self) -> torch.Tensor:
        """The sum of all ranks' sources, one after the other: a stack of them may not fit."""
        total = self.given(0)
        for rank in range(1, self.ranks):
            total += self.given(rank)
        return total


class AllReduce(Collective):
    """Every rank gets the sum of all ranks' sources, in place: as gradients are averaged."""

    whole = True

    def __init__(self, size: int, place: Place) -> None:
        super().__init__(size, place)
        self.target = self.source

    def give(self) -> None:
        """As Collective.give, in place."""
        self.source.copy_(self.given(self.rank))

    def exchange(self) -> None:
        """As Collective.exchange."""
        dist.all_reduce(self.source)

    def expected(self) -> torch.Tensor:
        """As Collective.expected."""
        return self.sum_of_given()


class AllGather(Collective):
    """Every rank gets the shares of all, in the order of the ranks."""

    def exchange(self) -> None:
        """As Collective.exchange."""
        dist.all_gather_into_tensor(self.target, self.source)

    def expected(self) -> torch.Tensor:
        """As Collective.expected."""
        return torch.cat([self.given(rank) for rank in range(self.ranks)])


class ReduceScatter(Collective):
    """Every rank gets its share of the sum of all sources."""

    whole, gets_whole = True, False

    def exchange(self) -> None:
        """As Collective.exchange."""
        dist.reduce_scatter_tensor(self.target, self.source)

    def expected(self) -> torch.Tensor:
        """As Collective.expected."""
        return self.sum_of_given().chunk(self.ranks)[self.rank]


class AllToAll(Collective):
    """Every rank gets a share of each rank's source."""

    whole = True

    def exchange(self) -> None:
        """As Collective.exchange."""
        dist.all_to_all_single(self.target, self.source)

    def expected(self) -> torch.Tensor:
        """As Collective.expected."""
        parts = [self.given(rank).chunk(self.ranks)[self.rank] for rank in range(self.ranks)]
        return torch.cat(parts)


class Broadcast(AllReduce):
    """Every rank gets the source of the last rank, in place. The last one, since rank 0 would be
    right without any exchange in a check that compares with rank 0's own values."""

    def exchange(self) -> None:
        """As Collective.exchange."""
        dist.broadcast(self.source, self.ranks - 1)

    def expected(self) -> torch.Tensor:
        """As Collective.expected."""
        return self.given(self.ranks - 1)


class SendRecv(Collective):
    """Every rank sends to the next one and receives from the one before, at the same time."""

    whole = True

    def exchange(self) -> None:
        """As Collective.exchange."""
        after, before = (self.rank + 1) % self.ranks, (self.rank - 1) % self.ranks
        transfers = [
            dist.P2POp(dist.isend, self.source, after),
            dist.P2POp(dist.irecv, self.target, before),
        ]
        for transfer in dist.batch_isend_irecv(transfers):
            transfer.wait()

    def expected(self) -> torch.Tensor:
        """As Collective.expected."""
        return self.given((self.rank - 1) % self.ranks)


def _horovod() -> Any:
    # Not above: Horovod need not be installed. Its exchange runs in a thread that torch's profiler
    # does not see, so the waits for it are marked.
    import horovod.torch as hvd

    return hvd


class HorovodAllReduce(AllReduce):
    """As AllReduce."""

    def exchange(self) -> None:
        """As Collective.exchange."""
        hvd = _horovod()
        with mark("communication", "Horovod"):
            hvd.allreduce_(self.source, op=hvd.Sum, name="timed")


class _HorovodOwnTarget(Collective):
    """Horovod makes the target of these anew in every step."""

    def exchange(self) -> None:
        """As Collective.exchange."""
        with mark("communication", "Horovod"):
            self.target = self.run(_horovod())

    @abstractmethod
    def run(self, hvd: Any) -> torch.Tensor:
        """What Horovod returns."""


class HorovodAllGather(_HorovodOwnTarget, AllGather):
    """As AllGather."""

    def run(self, hvd: Any) -> torch.Tensor:
        """As _HorovodOwnTarget.run."""
        gathered: torch.Tensor = hvd.allgather(self.source, name="timed")
        return gathered


class HorovodReduceScatter(_HorovodOwnTarget, ReduceScatter):
    """As ReduceScatter."""

    def run(self, hvd: Any) -> torch.Tensor:
        """As _HorovodOwnTarget.run."""
        part: torch.Tensor = hvd.reducescatter(self.source, op=hvd.Sum, name="timed")
        return part


class HorovodAllToAll(_HorovodOwnTarget, AllToAll):
    """As AllToAll."""

    def run(self, hvd: Any) -> torch.Tensor:
        """As _HorovodOwnTarget.run."""
        parts: torch.Tensor = hvd.alltoall(self.source, name="timed")
        return parts


class HorovodBroadcast(Broadcast):
    """As Broadcast."""

    def exchange(self) -> None:
        """As Collective.exchange."""
        with mark("communication", "Horovod"):
            _horovod().broadcast_(self.source, self.ranks - 1, name="timed")


def check(step: Collective) -> None:
    """Checks the values of one step, all of them, exactly. Raises AssertionError with the first
    wrong one."""
    step.give()
    step.exchange()
    expected, actual = step.expected(), step.target
    wrong = (actual != expected).nonzero()
    if len(wrong):
        place = int(wrong[0])
        raise AssertionError(
            f"{len(wrong)} of {expected.numel()} values of rank {step.rank} are wrong: at"
            f" {place} it holds {float(actual[place])!r} instead of {float(expected[place])!r}"
        )
