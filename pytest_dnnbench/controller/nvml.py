"""NVML, the management library of NVIDIA's driver: answers about GPUs without CUDA and without
torch. What is asked, and what the answers mean, is its users' affair."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class NvmlUnavailable(Exception):
    """No NVIDIA driver answers; the text is NVML's reason. Never leaves the controller."""


@contextmanager
def nvml() -> Iterator[Any]:
    """The module `pynvml`, ready to be asked while the `with` lasts. Raises NvmlUnavailable."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NvmlUnavailable(str(error)) from error
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def gpu_handles(library: Any) -> list[Any]:
    """NVML's handle of each GPU, in NVML's order. `library` is what `nvml` yields."""
    return [
        library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())
    ]
