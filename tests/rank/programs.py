"""The programs that tests run on ranks. Torch is imported there alone: a session that only names a
program would spend most of its time on it."""

import os
import resource
import signal
import subprocess
import sys
import time
from typing import Any

from pytest_dnnbench.messages import Place, RunRequest


def place(at: Place) -> Place:
    """This rank's place."""
    return at


def sum_of_ranks() -> int:
    """The sum of all ranks' numbers, by a real all-reduce."""
    import torch

    total = torch.tensor(_dist().get_rank())
    _dist().all_reduce(total)
    return int(total)


def facts() -> dict[str, object]:
    """Process, threads and group of this rank."""
    import torch

    return {
        "pid": os.getpid(),
        "threads": torch.get_num_threads(),
        "size": _dist().get_world_size(),
    }


def cores_and_threads() -> tuple[list[int], str]:
    """The cores that this rank may run on, and the number of compute threads in its
    environment."""
    return sorted(os.sched_getaffinity(0)), os.environ["OMP_NUM_THREADS"]


def alone(folder: str) -> None:
    """Fails when another job is in the same folder at the same time."""
    mark = os.path.join(folder, f"rank{_dist().get_rank()}")
    os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    time.sleep(0.2)
    os.unlink(mark)
    _dist().barrier()


def echo(value: object) -> object:
    """Returns its argument."""
    return value


def nested(levels: int) -> Any:
    """A list with so many in each other."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def levels_of(value: Any) -> int:
    """How many lists are in each other."""
    levels = 0
    while value:
        value = value[0]
        levels += 1
    return levels


def raise_on(rank: int) -> None:
    """One rank raises; the others wait for it in a collective."""
    if _dist().get_rank() == rank:
        print("about to fail")
        raise ValueError("planted")
    _dist().barrier()


def die_on(rank: int, number: int) -> None:
    """One rank dies of a signal; the others wait for it."""
    if _dist().get_rank() == rank:
        print("last words", flush=True)
        os.kill(os.getpid(), number)
    _dist().barrier()


def die_behind_a_late_server(late_s: float) -> None:
    """Rank 1 dies while the fork server stands still for so long; its peer raises because of it."""
    if _dist().get_rank() == 1:
        server = os.getppid()
        wake = f"sleep {late_s}; kill -CONT {server}"
        subprocess.Popen(["sh", "-c", wake], start_new_session=True)
        os.kill(server, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGKILL)
    _dist().barrier()


def leave_on(rank: int) -> None:
    """One rank leaves early with a clean exit status."""
    if _dist().get_rank() == rank:
        os._exit(0)
    _dist().barrier()


def hang_on(rank: int) -> None:
    """One rank never reaches the collective."""
    if _dist().get_rank() == rank:
        sleep_forever()
    _dist().barrier()


def sleep_forever() -> None:
    """Longer than any test waits."""
    time.sleep(3600)


def kill_parent() -> None:
    """Ends the fork server, and with it all ranks."""
    os.kill(os.getppid(), signal.SIGKILL)
    sleep_forever()


def print_lines(count: int) -> None:
    """Numbered lines."""
    for number in range(count):
        print(number)


def stop_on(rank: int) -> None:
    """One rank is stopped, as by a debugger."""
    if _dist().get_rank() == rank:
        os.kill(os.getpid(), signal.SIGSTOP)
    _dist().barrier()


def say_pid_and_sleep(folder: str) -> None:
    """Writes its process id to a file, then sleeps."""
    with open(f"{folder}/{_dist().get_rank()}", "w") as file:
        file.write(str(os.getpid()))
    sleep_forever()


def listening_sockets() -> list[str]:
    """The local addresses, as the kernel writes them, that this process listens on."""
    inodes = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        if link.startswith("socket:["):
            inodes.add(link[8:-1])
    addresses = []
    for table in ("tcp", "tcp6"):
        with open(f"/proc/self/net/{table}") as lines:
            rows = [line.split() for line in lines][1:]
        addresses += [row[1] for row in rows if row[3] == "0A" and row[9] in inodes]
    return addresses


def modules() -> list[str]:
    """The modules that this rank has imported."""
    return sorted(sys.modules)


def late_imports(place: Place, request: RunRequest) -> list[str]:
    """The modules of torch that a measured run imports on this rank: its fork server has not."""
    from pytest_dnnbench.rank.timed_run import measure

    before = set(sys.modules)
    measure(place, request)
    return sorted(name for name in set(sys.modules) - before if name.startswith("torch"))


def variable(name: str) -> str | None:
    """An environment variable as this rank sees it."""
    return os.environ.get(name)


def page_faults_of_large_buffers() -> int:
    """Page faults of writing 32 MiB, freed and taken again ten times, once the heap has settled."""
    import torch

    for _ in range(20):
        torch.ones(8 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(8 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def variables_and_first_path(names: list[str]) -> list[str | None]:
    """These variables of the rank, and what is first on its `sys.path`."""
    return [*map(os.environ.get, names), sys.path[0]]


def host_of_nccl(place: Place) -> tuple[str, tuple[str, ...]]:
    """The host that NCCL takes this rank's to be, and the variables that this launch alone has."""
    return os.environ["NCCL_HOSTID"], place.launch_variables


def _dist() -> Any:
    import torch.distributed

    return torch.distributed
