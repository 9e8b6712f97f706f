"""Nodes for tests: two agents on this machine, or two network namespaces that stand for
machines."""

import itertools
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from pytest_dnnbench.controller.agent_messages import Hello
from pytest_dnnbench.controller.cluster import Cluster
from pytest_dnnbench.controller.engines import Engine, Prefix
from pytest_dnnbench.controller.node_placement import NodePlacements
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.controller.remote_node import RemoteNode
from pytest_dnnbench.session.nodes import hello
from tests.patience import HANG_S

NAMES = ("n1", "n2")

_PRELOAD = ("torch", "torch.distributed", "pytest_dnnbench.rank.group")

_MADE = itertools.count()

_NETWORKS = 64 * 256
"""How many networks of 256 addresses lie in 10.64.0.0/10."""

ROOT = Path(__file__).resolve().parents[2]

_ENTER = """#!/bin/sh
# NODE INDEX COMMAND...: runs a command on a node, with a host name and a table of hosts of its own:
# libraries take two ranks with the same host name for neighbours.
node=$1; index=$2; shift 2
exec nsenter --net=/run/netns/{prefix}$node unshare --uts --mount sh -c '
    hostname "$0"; mount --bind {hosts} /etc/hosts; index=$1; shift
    exec {pin} "$@"' $node $index "$@"
"""


def pinned() -> str:
    """The command by which a node has one core of its own, where there are two."""
    cores = sorted(os.sched_getaffinity(0))
    return "taskset -c {index}" if cores[:2] == [0, 1] else "env"


@contextmanager
def cluster(
    engine: str | Engine, leases: Path, preload: Sequence[str] = _PRELOAD
) -> Iterator[Cluster]:
    """Two connected nodes, of one rank each. Their leases are in a folder of the test's own, for
    other sessions may hold those of the machine. `engine`: or the command of a prefix; `preload`:
    what their fork servers import."""

    def first_message() -> Hello:
        message = hello(preload, device="cpu", timed=False, lease_timeout_s=HANG_S)
        message.environment["DNNBENCH_LEASE_DIR"] = str(leases)
        return message

    if isinstance(engine, str):
        engine = Prefix(NAMES, tuple(engine.split()))
    nodes = Cluster([RemoteNode(name, engine, first_message) for name in NAMES], ranks_per_node=1)
    nodes.connect()
    try:
        yield nodes
    finally:
        nodes.close()


def ranks(nodes: Cluster, timeout_s: float = HANG_S, world_size: int = 2) -> Ranks:
    """Ranks on these nodes."""
    placements = NodePlacements(nodes, HANG_S)
    devices = ["cpu"] * world_size
    return Ranks(None, devices, threads=1, timeout_s=timeout_s, placements=placements)


@contextmanager
def namespaces(folder: Path) -> Iterator[tuple[str, str]]:
    """Two nodes with addresses and names of their own, on a bridge. Yields the command that runs a
    program on {node}, and the beginning of their addresses."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "nsenter", "unshare"))):
        pytest.skip("needs root and the tools of iproute2 and util-linux")
    with ExitStack() as undo:
        number, net = _network_of_its_own()
        prefix, bridge = f"dnn{number}", f"dnnb{number}"
        undo.callback(_ip, "link", "del", bridge)
        _ip("addr", "add", f"{net}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        hosts = ["127.0.0.1 localhost", f"{net}.1 {os.uname().nodename}"]
        for last, name in enumerate(NAMES, 2):
            _ip("netns", "add", prefix + name)
            undo.callback(_ip, "netns", "del", prefix + name)
            outside = f"d{number}{name}"
            _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0",
                "netns", prefix + name)  # fmt: skip
            _ip("link", "set", outside, "master", bridge, "up")
            _ip("-n", prefix + name, "addr", "add", f"{net}.{last}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip("-n", prefix + name, "link", "set", device, "up")
            hosts.append(f"{net}.{last} {name}")
        (folder / "hosts").write_text("\n".join([*hosts, ""]))
        enter = folder / "enter"
        pin = pinned().replace("{index}", "$index")
        enter.write_text(_ENTER.format(prefix=prefix, hosts=folder / "hosts", pin=pin))
        enter.chmod(0o700)
        yield f"{enter} {{node}} {{index}}", net


def _network_of_its_own() -> tuple[int, str]:
    """The number of a network that neither this machine nor another session of these tests uses,
    and the beginning of its addresses. Makes its bridge: the kernel gives a name only once."""
    # Another each time: the kernel takes a while to remove what belonged to a namespace.
    first = os.getpid() + 641 * next(_MADE)
    for number in (each % _NETWORKS for each in range(first, first + _NETWORKS)):
        net = f"10.{64 + number // 256}.{number % 256}"
        routes = [*_routes("match", f"{net}.1"), *_routes("root", f"{net}.0/24")]
        if any(not route.startswith("default") for route in routes) or _is_used(_port_of(net)):
            continue
        make = ["ip", "link", "add", f"dnnb{number}", "type", "bridge"]
        made = subprocess.run(make, capture_output=True, text=True)
        if made.returncode == 0:
            return number, net
        assert "File exists" in made.stderr, made.stderr
    raise AssertionError("every network in 10.64.0.0/10 is in use")


def _port_of(net: str) -> int:
    """The port on this machine that belongs to a network: below those that the kernel gives."""
    _, second, third = map(int, net.split("."))
    return 12_000 + 256 * (second - 64) + third


def _is_used(port: int) -> bool:
    with suppress(OSError), socket.create_server(("", port)):
        return False
    return True


def _routes(which: str, address: str) -> list[str]:
    command = ["ip", "-4", "route", "show", which, address]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


SLURM = ("slurmctld", "slurmd", "srun", "sbatch", "munged")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_SLURM_CONF = """\
ClusterName=dnnbench
SlurmctldHost={host}({net}.1)
SlurmUser=root
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
KillWait=5
BatchStartTimeout=300
MessageTimeout=100
SlurmdTimeout=600
TCPTimeout=30
UnkillableStepTimeout=300
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/d-%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/d-%n.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherParams=OverMemoryKill
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname=n1 NodeAddr={net}.2 Port=20001 CPUs=2 RealMemory=8000
NodeName=n2 NodeHostname=n2 NodeAddr={net}.3 Port=20002 CPUs=2 RealMemory=8000
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
"""A busy machine is not to look like one whose nodes are gone: the waits of Slurm are longer than
by default."""

_DAEMONS_ANSWER_S = 300.0


@contextmanager
def slurm(folder: Path, command: str, net: str) -> Iterator[dict[str, str]]:
    """A Slurm of its own over the two nodes of `namespaces`, with a munged of its own. Yields the
    variables by which its commands find it."""
    missing = [name for name in SLURM if shutil.which(name, path=_PATH) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}, of Debian's slurm-wlm and munge")
    for name in ("munge", "state", "spool-n1", "spool-n2"):
        (folder / name).mkdir(mode=0o755)
    conf = folder / "slurm.conf"
    host, port = os.uname().nodename, _port_of(net)
    conf.write_text(_SLURM_CONF.format(host=host, net=net, port=port, folder=folder))
    (folder / "munge" / "key").write_bytes(os.urandom(128))
    (folder / "munge" / "key").chmod(0o400)
    variables = {**os.environ, "SLURM_CONF": str(conf), "PATH": _PATH}
    munge = ["munged", "--foreground", "--force", f"--key-file={folder}/munge/key"]
    munge += [f"--{name}-file={folder}/munge/{name}" for name in ("log", "pid", "seed")]
    daemons = [[*munge, f"--socket={folder}/munge/socket"], ["slurmctld", "-D", "-f", str(conf)]]
    for index, name in enumerate(NAMES):
        enter = [word.format(node=name, index=index) for word in command.split()]
        daemons.append([*enter, "slurmd", "-D", "-N", name, "-f", str(conf)])
    with ExitStack() as ends:
        for number, daemon in enumerate(daemons):
            with (folder / f"daemon{number}.out").open("ab") as output:
                running = subprocess.Popen(daemon, env=variables, stdout=output, stderr=output)
            ends.callback(running.wait)
            ends.callback(running.terminate)
        yield variables


@contextmanager
def allocation(variables: dict[str, str], *more: str) -> Iterator[dict[str, str]]:
    """Both nodes of `slurm`, allocated as soon as its daemons answer, with `more` options. Yields
    the variables of a process inside the allocation."""
    asked = ["salloc", "--no-shell", f"--nodes={len(NAMES)}", "--cpus-per-task=2", *more]
    deadline = time.monotonic() + _DAEMONS_ANSWER_S
    while True:  # before slurmctld listens, its commands fail
        made = subprocess.run(asked, env=variables, capture_output=True, text=True, timeout=HANG_S)
        if made.returncode == 0:
            break
        if time.monotonic() > deadline:
            raise AssertionError(f"Slurm gives no allocation: {made.stderr}")
        time.sleep(0.3)
    granted = re.search(r"Granted job allocation (\d+)", made.stderr)
    assert granted, made.stderr
    try:
        inside = {"SLURM_JOB_ID": granted[1], "SLURM_JOB_NODELIST": ",".join(NAMES)}
        yield {**variables, **inside, "SLURM_JOB_NUM_NODES": str(len(NAMES))}
    finally:
        subprocess.run(["scancel", granted[1]], env=variables, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
