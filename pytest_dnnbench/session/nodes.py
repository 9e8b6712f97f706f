"""From the options to the nodes of a session: which engine, which nodes, and what their agents are
told. Not here: what nodes do (controller/cluster.py)."""

from __future__ import annotations

import os
import platform
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence

from pytest_dnnbench.controller.agent_messages import Hello
from pytest_dnnbench.controller.checked_engine import checked_engine
from pytest_dnnbench.controller.cluster import Cluster, HereNode, Node, is_this_machine
from pytest_dnnbench.controller.engines import Engine, EngineFactory, mpirun, prefix
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.placement import Placements
from pytest_dnnbench.controller.remote_node import RemoteNode
from pytest_dnnbench.controller.server_environment import decides_speed
from pytest_dnnbench.controller.slurm import (
    STOPPED_FILE,
    has_several_nodes,
    in_allocation,
    slurm,
    tell_the_script,
)
from pytest_dnnbench.counted import counted, verb
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.installed import packages
from pytest_dnnbench.session.node_names import names_of
from pytest_dnnbench.session.settings import Settings

NONE = "none"
"""The engine of a session that stays on this machine, also inside an allocation."""

ENGINES: dict[str, EngineFactory] = {"prefix": prefix, "slurm": slurm, "mpirun": mpirun}


def stays_here(settings: Settings) -> bool:
    """Whether a session stays on this machine, whatever its options of nodes say."""
    if settings.engine is not None:
        return settings.engine == NONE
    return not in_allocation() or not (settings.nodes or has_several_nodes())


def engine_of(settings: Settings, added: Mapping[str, EngineFactory]) -> Engine | None:
    """The engine of a session; None where it stays on this machine. Raises UsageError."""
    factories, names = {**ENGINES, **added}, _names(settings.nodes)
    command = _words_of(settings.engine_command or "")
    if settings.engine == NONE:
        return None
    if settings.engine is None:
        if not stays_here(settings):
            if "slurm" in added:
                return checked_engine("slurm", added["slurm"], names, command)
            return slurm(names, command)
        for option, value in (
            ("--dnn-nodes", settings.nodes),
            ("--dnn-engine-command", settings.engine_command),
        ):
            if value:
                raise UsageError(
                    f"{option} {value!r} needs an engine: say how processes are started on nodes"
                    f" with --dnn-engine ({', '.join(factories)})"
                )
        return None
    if settings.engine not in factories:
        choices = ", ".join((*factories, NONE))
        raise UsageError(f"--dnn-engine {settings.engine!r} is unknown: choose from {choices}")
    if settings.engine in added:
        return checked_engine(settings.engine, added[settings.engine], names, command)
    return factories[settings.engine](names, command)


def _words_of(command: str) -> tuple[str, ...]:
    """The words of --dnn-engine-command. Raises UsageError."""
    try:
        return tuple(shlex.split(command))
    except ValueError as error:
        raise UsageError(
            f"--dnn-engine-command {command!r} cannot be divided into words"
            f" ({str(error).lower()}): close its quotes"
        ) from None


def _names(nodes: str | None) -> tuple[str, ...]:
    """The names in --dnn-nodes; none where it is a number. Raises UsageError."""
    return () if nodes is None or _is_number(nodes) else names_of(nodes)


def _is_number(nodes: str) -> bool:
    return nodes.strip().isascii() and nodes.strip().isdigit()


def _spread(nodes: str | None, available: int) -> int | None:
    """The number in --dnn-nodes. Raises UsageError for one that cannot be."""
    if nodes is None or not _is_number(nodes):
        return None
    number = int(nodes)
    if not 1 <= number <= available:
        raise UsageError(
            f"--dnn-nodes is {number}, and there {verb(available, 'is', 'are')}"
            f" {counted(available, 'node')}: give a number from 1 to {available}"
        )
    return number


def stopping(announce: Callable[[str], None], *, for_time: bool = False) -> Callable[[str], None]:
    """Stops the session for a reason, as SIGTERM does: the file is saved, the journal kept.
    `for_time`: its job has too little time left, and its batch script is to continue it."""

    def stop(why: str) -> None:
        announce(f"dnnbench: {why}; stopping as after Ctrl-C")
        if for_time:
            tell_the_script(STOPPED_FILE, why)
        os.kill(os.getpid(), signal.SIGTERM)

    return stop


def hello(preload: Sequence[str], *, device: str, timed: bool, lease_timeout_s: float) -> Hello:
    """What an agent is told first, of this process as it is now."""
    return Hello(
        python=platform.python_version(),
        packages=packages(),
        directory=os.getcwd(),
        sys_path=list(sys.path),
        environment=decides_speed(os.environ),
        preload=list(preload),
        device=device,
        timed=timed,
        lease_timeout_s=lease_timeout_s,
    )


def cluster_of(
    settings: Settings,
    engine: Engine,
    server: ForkServer,
    here: Callable[[], Placements],
    *,
    timed: bool,
    announce: Callable[[str], None],
) -> Cluster:
    """The session's nodes, connected. `here` gives the placements of this machine, for an
    allocation that includes it. Raises UsageError."""

    def hello_now() -> Hello:
        timeout_s = settings.lease_timeout
        return hello(server.preload, device=settings.device, timed=timed, lease_timeout_s=timeout_s)

    names = engine.nodes()
    spread = _spread(settings.nodes, len(names))
    is_batch = settings.engine != "prefix"
    nodes: list[Node] = [
        HereNode(name, server, here())
        if is_batch and is_this_machine(name)
        else RemoteNode(name, engine, hello_now, announce=announce, stop=stopping(announce))
        for name in names
    ]
    cluster = Cluster(
        nodes,
        spread=spread,
        ranks_per_node=settings.ranks_per_node,
        interface=settings.interface,
    )
    cluster.connect()
    return cluster
