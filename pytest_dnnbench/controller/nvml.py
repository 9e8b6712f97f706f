"""NVML, the management library of NVIDIA's driver: answers about GPUs without CUDA and without
torch. What is asked, and what the answers mean, is its users' affair."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class NvmlUnavailable(Exception):
    """No NVIDIA driver answers; the text is NVML's reason. Never leaves the controller."""


_OPEN: list[tuple[Any, int]] = []
"""The module `pynvml` that is initialised, and in which process. NVML takes up to a second to
initialise and is asked several times a launch, so it stays open for the session."""


@contextmanager
def nvml() -> Iterator[Any]:
    """The module `pynvml`, ready to be asked. Raises NvmlUnavailable."""
    import pynvml

    if not any(library is pynvml and pid == os.getpid() for library, pid in _OPEN):
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise NvmlUnavailable(str(error)) from error
        _OPEN[:] = [(pynvml, os.getpid())]
    yield pynvml


def close_nvml() -> None:
    """Gives NVML up, at the end of a session."""
    for library, pid in _OPEN:
        if pid == os.getpid():
            with suppress(library.NVMLError):
                library.nvmlShutdown()
    _OPEN.clear()


def gpu_handles(library: Any) -> list[Any]:
    """NVML's handle of each GPU that may be used, in NVML's order. `library` is what `nvml`
    yields."""
    return opened_gpus(library)[0]


def opened_gpus(library: Any) -> tuple[list[Any], list[str]]:
    """The handles of the GPUs that may be used, in NVML's order, and why others may not.

    NVML counts GPUs that a batch system has shut off from this job ("No Permission") and GPUs that
    are lost. CUDA numbers neither.
    """
    handles, refused = [], []
    for index in range(library.nvmlDeviceGetCount()):
        try:
            handles.append(library.nvmlDeviceGetHandleByIndex(index))
        except library.NVMLError as error:
            refused.append(f"GPU {index}: {error}")
    return handles, refused
