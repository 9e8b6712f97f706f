"""The conditions of a profile: device, compute threads, no garbage collector; and their record.

Not here: precision (rank/precision.py).
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.proc import cpu_model
from pytest_dnnbench.rank.interpreter import peculiarities


def profile_environment(device: torch.device, threads: int) -> dict[str, str | int]:
    """The facts that times depend on besides the model: two profiles compare only where they are
    equal."""
    facts: dict[str, str | int] = {
        "torch": torch.__version__,
        "threads": threads,
        "processor": cpu_model(),
    }
    if peculiar := peculiarities():
        facts["interpreter"] = peculiar
    if device.type == "cuda":
        facts |= {"gpu": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda)}
    return facts


def usable_device(name: str) -> torch.device:
    """The device "cpu" or "cuda[:INDEX]". Raises UsageError for any other device, and for CUDA
    where torch sees none."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device {name!r} is not known to torch: use cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"device {name!r} was requested, but torch sees no CUDA device here: use cpu"
        )
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} cannot be profiled: use cpu or cuda")
    return device


@contextmanager
def compute_threads(threads: int) -> Iterator[None]:
    """Lets operators use this number of threads, for the length of a `with`."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def no_collector() -> Iterator[None]:
    """Stops the cyclic garbage collector, for the length of a `with`: it would run between two
    marks."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
