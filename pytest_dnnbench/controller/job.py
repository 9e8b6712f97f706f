"""Job: one launch on all of its nodes, from when it begins there to when its ranks have ended.

    shares      the nodes in the order of the ranks, each with its part of the launch
    store       where the ranks of several nodes meet: on the first of them, the leading node
    encoding    pickles on this machine alone, portable values (portable.py) where nodes are named

Not here: what the ranks are asked and what becomes of their answers (ranks.py).
"""

import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from pytest_dnnbench.controller.launch_part import LaunchPart
from pytest_dnnbench.controller.placement import NodeShare
from pytest_dnnbench.controller.rank_clock import ClockOffset
from pytest_dnnbench.controller.rank_process import Rank
from pytest_dnnbench.controller.route import LOOPBACK_INTERFACE
from pytest_dnnbench.controller.this_node import LaunchNode, NodeLaunch
from pytest_dnnbench.errors import LaunchError, UsageError
from pytest_dnnbench.frames import PICKLED, PLAIN, PORTABLE
from pytest_dnnbench.speed_variables import LOOPBACK

Rendezvous = Callable[[int], AbstractContextManager[Sequence[Mapping[str, str]]]]
"""Given the world size: runs beside the ranks, and yields the environment variables of each. Of
named nodes it runs on the leading one, and is given the `hosts` too."""


@dataclass(frozen=True, slots=True)
class JobShare:
    """A node's share of a job: `ranks` of them from `first_rank` on; it is the node of that
    `number`. `interface` leads to the other nodes; empty: there are none."""

    node: LaunchNode
    part: LaunchPart
    ranks: int
    first_rank: int = 0
    number: int = 0
    interface: str = ""

    @property
    def interface_variables(self) -> dict[str, str]:
        """By which interface gloo and NCCL reach the other nodes; the fork server's variables say
        loopback. None for a library for which the user has said it: a cluster may have several fast
        networks, all of which NCCL is to use."""
        if not self.interface:
            return {}
        # Without the sign NCCL takes every interface whose name begins so.
        ours = {
            "GLOO_SOCKET_IFNAME": self.interface,
            "NCCL_SOCKET_IFNAME": f"={self.interface}",
        }
        return {name: value for name, value in ours.items() if name not in self.users_interfaces}

    @property
    def users_interfaces(self) -> dict[str, str]:
        """The variables by which the user has said it; none where the nodes share a machine, whose
        ranks meet on loopback."""
        if self.interface in ("", LOOPBACK_INTERFACE):
            return {}
        return {name: os.environ[name] for name in LOOPBACK if os.environ.get(name)}


class Job:
    """One launch. `environments` are the variables that each rank gets for this launch alone."""

    def __init__(
        self,
        shares: Sequence[JobShare],
        environments: Sequence[Mapping[str, str]],
        store: tuple[str, int] | None = None,
    ) -> None:
        self.shares = tuple(shares)
        self.environments = environments
        self.store = store

    @property
    def share_of_rank(self) -> list[JobShare]:
        """The share that each rank is in."""
        return [share for share in self.shares for _ in range(share.ranks)]

    @property
    def ranks(self) -> list[Rank]:
        """The ranks that have been started, in order."""
        return [rank for share in self.shares for rank in share.part.ranks]

    @property
    def named(self) -> bool:
        """Whether the launch is on nodes, of which some may be other machines."""
        return bool(self.shares[0].node.name)

    def packed(self, arguments: tuple[Any, ...]) -> bytes:
        """The arguments for the ranks' function. Raises UsageError for what cannot go to another
        machine, or is nested too deep."""
        if not self.named:
            try:
                return pickle.dumps(arguments)
            except RecursionError:
                raise UsageError(
                    "an argument for the ranks holds too many objects in each other: give a flat"
                    " list, or write it to a file and give its path"
                ) from None
        from pytest_dnnbench.portable import packed

        return packed(arguments)

    def kind(self, returns: Any) -> bytes:
        """The kind of frame in which the ranks answer."""
        if returns is not None:
            return PLAIN
        return PORTABLE if self.named else PICKLED

    def confirm_ends(self) -> None:
        """Waits until it is known on all nodes how ranks ended that have ended."""
        for share in self.shares:
            share.part.ask_ends()
        for share in self.shares:
            share.part.confirm_ends()

    def gather(self, *, stacks: bool = False) -> None:
        """Waits until the outputs and timings of all ranks, and if asked for their stacks, can be
        read."""
        for share in self.shares:
            share.part.ask_gather(stacks=stacks)
        for share in self.shares:
            share.part.gather()

    def clocks(self) -> list[ClockOffset]:
        """How the clock of each node differs from ours now. Of a node that is lost meanwhile
        nothing is said here: its ranks say so."""
        return [_clock_of(share) for share in self.shares]

    def offsets(self, before: Sequence[ClockOffset]) -> tuple[ClockOffset, ...]:
        """The same during the launch, for each rank; empty where all ranks have our clock."""
        if not self.named:
            return ()
        during = [clock.during(now) for clock, now in zip(before, self.clocks(), strict=True)]
        return tuple(during[share.number] for share in self.share_of_rank)

    def end(self) -> None:
        """Ends every rank. If all have reported a result, they may leave by themselves; otherwise
        they are killed."""
        orderly = all(rank.reported and not rank.failed for rank in self.ranks)
        with ExitStack() as ends:  # one that fails does not keep the others
            for share in self.shares:
                ends.callback(share.part.end, orderly)
            for share in self.shares:
                share.part.ask_end(orderly)


def _clock_of(share: JobShare) -> ClockOffset:
    try:
        return share.node.clock()
    except LaunchError:
        if any(rank.lost for rank in share.part.ranks):
            return ClockOffset()
        raise


@contextmanager
def no_rendezvous(world_size: int) -> Iterator[list[dict[str, str]]]:
    """Nothing runs beside the ranks, and no variables are added."""
    yield [{} for _ in range(world_size)]


@contextmanager
def begin(
    shares: Sequence[NodeShare], timeout_s: float, rendezvous: Rendezvous | None
) -> Iterator[Job]:
    """Begins a launch on nodes. The store and the rendezvous are on the first of them."""
    for share in shares:
        share.node.start()
    several, hosts = len(shares) > 1, [share.host for share in shares]
    world_size = sum(host.ranks for host in hosts)
    with ExitStack() as launches:
        begun: list[NodeLaunch] = []
        for share in shares:
            leads = not begun
            launch = share.node.launch(
                timeout_s,
                hosts,
                address=share.host.address if leads and several else "",
                rendezvous=name_of(rendezvous) if leads and rendezvous else "",
            )
            begun.append(launches.enter_context(launch))
        firsts = [sum(host.ranks for host in hosts[:number]) for number in range(len(hosts))]
        yield Job(
            [
                JobShare(
                    share.node,
                    launch.part,
                    share.host.ranks,
                    firsts[number],
                    number,
                    share.host.interface if several else "",
                )
                for number, (share, launch) in enumerate(zip(shares, begun, strict=True))
            ],
            begun[0].environments or [{}] * world_size,
            (hosts[0].address, begun[0].port) if several else None,
        )


def name_of(function: Callable[..., Any]) -> str:
    """The "module:name" by which another process imports a function."""
    return f"{function.__module__}:{function.__qualname__}"
