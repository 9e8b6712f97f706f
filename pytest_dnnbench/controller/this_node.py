"""This machine as a node: what a launch asks of any node, done here without an agent.

Also here: how a framework's own rendezvous is run on the leading node of a launch.
"""

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.launch_part import LaunchPart, LocalPart
from pytest_dnnbench.controller.rank_clock import ClockOffset
from pytest_dnnbench.controller.route import Host
from pytest_dnnbench.controller.side import Side
from pytest_dnnbench.errors import UsageError


@dataclass(frozen=True, slots=True)
class NodeLaunch:
    """A launch that has begun on a node: its part, the port of the store there (0: none), and the
    variables that a rendezvous on it gives to each rank of the launch (empty: none)."""

    part: LaunchPart
    port: int = 0
    environments: Sequence[Mapping[str, str]] = ()


class LaunchNode(Protocol):
    """A node as a launch sees it."""

    @property
    def name(self) -> str:
        """Its name; empty for this machine where there is no other node."""

    @property
    def environment(self) -> Mapping[str, str]:
        """The pytest process's environment when the node's fork server was started."""

    @property
    def side(self) -> Side:
        """The side of a comparison that its ranks belong to."""

    def start(self) -> None:
        """Starts what forks ranks, and returns before it is ready."""

    def wait_ready(self, timeout_s: float) -> None:
        """Returns when ranks can be forked. Raises LaunchError."""

    def launch(
        self, timeout_s: float, hosts: Sequence[Host], *, address: str = "", rendezvous: str = ""
    ) -> AbstractContextManager[NodeLaunch]:
        """A launch on this node, for the length of a `with`. On the leading node, `address` is
        where the ranks' store listens, and `rendezvous` the "module:function" that runs beside
        them."""

    def clock(self) -> ClockOffset:
        """How its clock differs from ours."""


class ThisNode:
    """This machine. Implements LaunchNode."""

    def __init__(self, name: str, server: ForkServer) -> None:
        self.name = name
        self.server = server

    @property
    def environment(self) -> Mapping[str, str]:
        """As LaunchNode.environment."""
        return self.server.environment

    @property
    def side(self) -> Side:
        """As LaunchNode.side."""
        return self.server.side

    def start(self) -> None:
        """As LaunchNode.start."""
        self.server.start()

    def wait_ready(self, timeout_s: float) -> None:
        """As LaunchNode.wait_ready."""
        self.server.wait_ready(timeout_s)

    @contextmanager
    def launch(
        self, timeout_s: float, hosts: Sequence[Host], *, address: str = "", rendezvous: str = ""
    ) -> Iterator[NodeLaunch]:
        """As LaunchNode.launch."""
        with LocalPart(self.server, timeout_s, node=self.name) as part:
            port = part.listen(address) if address else 0
            if not rendezvous:
                yield NodeLaunch(part, port)
                return
            with beside(rendezvous, hosts) as environments:
                yield NodeLaunch(part, port, environments)

    def clock(self) -> ClockOffset:
        """The clock is ours."""
        return ClockOffset()


def beside(rendezvous: str, hosts: Sequence[Host]) -> Any:
    """Runs a framework's rendezvous on this node for the ranks of several; a context manager of the
    variables of each rank. Raises UsageError for one that is made for one machine."""
    module, _, name = rendezvous.partition(":")
    function = getattr(importlib.import_module(module), name)
    if "hosts" not in inspect.signature(function).parameters:
        raise UsageError(
            f"the rendezvous {rendezvous} takes no `hosts`, so its framework cannot run on other"
            " nodes: give it the parameter"
        )
    return function(sum(host.ranks for host in hosts), hosts=hosts)
