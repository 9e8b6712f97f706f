"""The C library's heap in a proof.

CPU ranks keep freed memory, so that a timed step meets the same pages in every launch
(controller/server_environment.py). A proof is not timed and holds large tensors, each for a while
only: there they are mapped one by one, and their memory goes back when they are freed.
"""

import ctypes
import gc
from contextlib import suppress

import torch

_M_MMAP_THRESHOLD, _M_MMAP_MAX = -3, -4
"""Of mallopt(3), from malloc.h."""

_LARGE_BYTES = 4 * 2**20
_MOST_MAPPED = 65_536


def map_large_tensors() -> None:
    """From now on, what is large on the host has a mapping of its own. Does nothing under a C
    library, or an allocator, that does not know of it."""
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        library.mallopt(_M_MMAP_MAX, _MOST_MAPPED)


def give_back_memory() -> None:
    """Gives freed memory back, of the host and of the device: that of tensors in circles of
    references too."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call] # torch's gap
        torch.cuda.empty_cache()
