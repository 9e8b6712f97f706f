"""What ranks of several nodes run in tests."""

import os
import signal
import subprocess
import time
from typing import Any

import torch
import torch.distributed as dist

from pytest_dnnbench.messages import Place
from pytest_dnnbench.speed_variables import speed_variables


def places(place: Place) -> tuple[Place, str, str]:
    """This rank's place, its host's name and gloo's interface."""
    return place, os.uname().nodename, os.environ["GLOO_SOCKET_IFNAME"]


def recorded_variables(place: Place) -> dict[str, str]:
    """The variables of the network that a record of this rank has."""
    facts = speed_variables(os.environ, place.launch_variables)
    return {name: value for name, value in facts.items() if name.endswith("_IFNAME")}


def doubled(value: dict[str, Any]) -> dict[str, Any]:
    """The same containers with each array and tensor doubled, added up over the ranks."""
    tensor = value["tensor"].float()
    dist.all_reduce(tensor)
    return {**value, "array": value["array"] * 2, "tensor": tensor}


def kill_agent_on(rank: int) -> None:
    """One rank kills the agent of its node; the others wait for it."""
    if dist.get_rank() == rank:
        agent = _parent_of(os.getppid())
        os.kill(agent, signal.SIGKILL)
        time.sleep(3600)
    dist.barrier()


def kill_agent_at_once(place: Place, rank: int) -> None:
    """The same outside any process group, while others may still be starting."""
    if place.rank == rank:
        os.kill(_parent_of(os.getppid()), signal.SIGKILL)
    time.sleep(3600)


def die_behind_a_stopped_server(rank: int) -> None:
    """One rank stops the fork server of its node, which would say how it ends, and dies; the
    others raise because of it."""
    if dist.get_rank() == rank:
        os.kill(os.getppid(), signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSEGV)
    dist.barrier()


def sign(place: Place, folder: str) -> int:
    """Each rank says that it runs."""
    with open(os.path.join(folder, f"rank{place.rank}"), "w"):
        return place.rank


def stop_agent_on(rank: int, file: str) -> None:
    """One rank stops the agent of its node, and says who it is; the others wait for it."""
    if dist.get_rank() == rank:
        with open(file, "w") as pids:
            pids.write(f"{os.getpid()} {os.getppid()} {_parent_of(os.getppid())}")
        os.kill(_parent_of(os.getppid()), signal.SIGSTOP)
        time.sleep(3600)
    dist.barrier()


def tell_and_exchange(folder: str) -> None:
    """Each rank says that it has met the others, then they go on exchanging."""
    for step in range(100_000):
        dist.all_reduce(torch.ones(1000))
        if step == 3:
            with open(os.path.join(folder, f"rank{dist.get_rank()}"), "w") as file:
                file.write(f"{os.getpid()} {os.getppid()} {_parent_of(os.getppid())}")
        time.sleep(0.01)


def doubled_places(number: int) -> tuple[int, str]:
    """The number twice, and the name of this rank's host."""
    return number * 2, os.uname().nodename


def cut_the_network() -> None:
    """Rank 1 takes its node off the network, then all go on exchanging."""
    dist.barrier()
    if dist.get_rank() == 1:
        subprocess.run(["ip", "link", "set", "eth0", "down"], check=True)
    dist.barrier()


def window_of(place: Place, seconds: float) -> tuple[float, float]:
    """Waits; returns when that began and ended, by this node's clock."""
    begin_s = time.monotonic()
    time.sleep(seconds)
    return begin_s, time.monotonic()


def _parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])


def use_memory_on(rank: int, size_bytes: int) -> None:
    """One rank touches so much memory and holds it; the others wait for it."""
    if dist.get_rank() == rank:
        held = torch.ones(size_bytes, dtype=torch.uint8)
        time.sleep(3600)
        held.sum()
    dist.barrier()
