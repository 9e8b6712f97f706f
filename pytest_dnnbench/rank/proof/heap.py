"""How freely a proof takes the host's memory.

CPU ranks keep freed memory, so that a timed step meets the same pages in every launch
(controller/server_environment.py). A proof is not timed and holds large tensors, each for a while
only. So it is sparing: large tensors are mapped one by one, and their memory goes back when they
are freed. Where memory is plentiful, that only takes time: a quarter of a small model's proof. Not
here: how much is plenty (conditions.py), what is put into files (shelf.py).
"""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

_M_MMAP_THRESHOLD, _M_MMAP_MAX = -3, -4
"""Of mallopt(3), from malloc.h."""

_LARGE_BYTES = 4 * 2**20
_MOST_MAPPED = 65_536


class Spending:
    """Whether the proof that runs in this process may take memory freely; no outside of one."""

    _is_in_proof = False
    _is_free = False

    @classmethod
    @contextmanager
    def begun(cls) -> Iterator[None]:
        """A proof runs inside, sparing until it is set free."""
        cls._is_in_proof = True
        _map_large_tensors(_MOST_MAPPED)
        try:
            yield
        finally:
            cls._is_in_proof = cls._is_free = False

    @classmethod
    def choose(cls, plentiful: bool) -> None:
        """Sets the proof free, where memory is plentiful. Does nothing outside of one."""
        if cls._is_in_proof and plentiful:
            cls._is_free = True
            _map_large_tensors(0)

    @classmethod
    def is_free(cls) -> bool:
        """Whether nothing needs to be given back or put into files."""
        return cls._is_free


def _map_large_tensors(most: int) -> None:
    """From now on, what is large on the host has a mapping of its own, up to so many. Does nothing
    under a C library, or an allocator, that does not know of it."""
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        library.mallopt(_M_MMAP_MAX, most)


def give_back_memory() -> None:
    """Gives freed memory back, of the host and of the device: that of tensors in circles of
    references too. Where the proof may take memory freely, the host's stays for its next tensors.
    """
    gc.collect()
    if not Spending.is_free():
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call] # torch's gap
        torch.cuda.empty_cache()
