"""A rank's membership in torch.distributed's process group."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.messages import Place
from pytest_dnnbench.rank import rank_phase
from pytest_dnnbench.rank.entry import resolve
from pytest_dnnbench.rank.store import store_of


def take_place(place: Place) -> None:
    """Sets this rank's number of compute threads and its current device. Raises UsageError if CUDA
    gives that device's number to another GPU than the one that was leased."""
    torch.set_num_threads(place.threads)
    if place.device.startswith("cuda"):
        torch.cuda.set_device(place.device)
        if place.gpu_uuid:
            _check_gpu(place)


def _check_gpu(place: Place) -> None:
    uuid = f"GPU-{torch.cuda.get_device_properties(place.device).uuid}"
    if uuid.lower() != place.gpu_uuid.lower():
        raise UsageError(
            f"{place.device} is {uuid} and not {place.gpu_uuid}, which was leased: set"
            " CUDA_VISIBLE_DEVICES before pytest starts and leave it as it is, for GPUs are leased"
            " by the numbers that they have then"
        )


def join(place: Place) -> None:
    """Joins the default process group: gloo on CPU ranks; NCCL, with gloo for CPU tensors, on
    GPUs."""
    on_gpu = place.device.startswith("cuda")
    dist.init_process_group(
        backend="cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=store_of(place),
        rank=place.rank,
        world_size=place.world_size,
        timeout=timedelta(seconds=place.timeout_s),
        device_id=torch.device(place.device) if on_gpu else None,
    )


def meet() -> None:
    """Waits for this rank's GPU, if it has one, and for all ranks. They wait on their hosts: a
    barrier of NCCL's is a kernel, which keeps a GPU busy for as long as the slowest rank takes, and
    that rank may be timing something on the same GPU."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call] # torch's gap
        torch.cuda.synchronize()
    dist.all_reduce(torch.zeros(1, device="cpu"))  # whatever the user's default device is


def leave() -> None:
    """Leaves the process group together with the other ranks: no rank goes while another still
    needs it.

    The group itself stays until the process ends, which is soon. Gloo's destructor joins threads
    that may wait for Python's lock, which the caller of the destructor holds; a group on GPUs has
    gloo's beside NCCL's, whose own end has been seen to hang (pytorch issues 75097 and 132696).
    """
    if dist.is_initialized():
        meet()


@contextmanager
def membership(place: Place) -> Iterator[None]:
    """Membership in the process group for the length of a `with`. After an error the rank does not
    leave the group: it ends, and the controller ends its peers."""
    rank_phase.enter("group")
    take_place(place)
    join(place)
    yield
    rank_phase.enter("teardown")
    leave()


def call(place: Place, target: tuple[str, str, str | None], *arguments: Any) -> Any:
    """The program of `Ranks.run` on each rank: the user's function inside a process group."""
    function: Callable[..., Any] = resolve(target)
    with membership(place):
        rank_phase.enter("program")
        return function(*arguments)
