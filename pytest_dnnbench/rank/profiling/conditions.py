"""What a profile is measured under: device, precision, compute threads, the quiet around it, and
their record."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pytest_dnnbench.case import PRECISIONS
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.proc import cpu_model


def environment(device: torch.device, threads: int) -> dict[str, str | int]:
    """What times depend on besides the model: two profiles compare only where this is alike."""
    found: dict[str, str | int] = {
        "torch": torch.__version__,
        "threads": threads,
        "processor": cpu_model(),
    }
    if device.type == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda)}
    return found


def usable_device(name: str) -> torch.device:
    """The device "cpu" or "cuda[:INDEX]". Raises UsageError for any other, and for one that is not
    there."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device {name!r} is not known to torch: use cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"device {name!r} was asked for, but torch sees no CUDA device here: use cpu"
        )
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} cannot be profiled: use cpu or cuda")
    return device


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context of one forward pass: casts to bfloat16 for "bf16". The weights are cast anew in
    every pass."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """TF32 in a GPU's matrix units for "tf32", and not else, for the length of a `with`; means
    nothing on a CPU.

    Raises UsageError for a precision other than "fp32", "tf32" and "bf16".
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is unknown: choose from {', '.join(PRECISIONS)}")
    settings: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined] # untyped
    before = [setting.fp32_precision for setting in settings]
    for setting in settings:
        setting.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


@contextmanager
def compute_threads(threads: int) -> Iterator[None]:
    """So many threads inside operators, for the length of a `with`."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def no_collector() -> Iterator[None]:
    """Keeps the cyclic garbage collector from running between two marks."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
