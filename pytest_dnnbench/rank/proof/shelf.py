"""Tensors that a proof puts aside while it runs something else: the first of them in memory, all
others in a file, from which each is read when it is looked at.

What a framework's steps left is put aside while the reference runs, and weights while rounding
moves them. So the proof of a large model never holds both sides at once.
"""

import ctypes
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.proof.heap import Spending

IN_MEMORY_BYTES = 128 * 2**20
"""On all shelves of a process together, before files are used, unless the proof takes memory freely
(heap.py). Small models never have one."""

_TAKE_MEMORY = ("tmpfs", "ramfs")
"""File systems whose files lie in memory."""

_ON_DISK = "/var/tmp"  # noqa: S108 - the file there has no name
"""Where the file lies if temporary files take memory."""

_GIBIBYTE = 2**30


@dataclass(frozen=True, slots=True)
class _Filed:
    """Where a tensor lies in the file, and what it is."""

    offset: int
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


class Shelf(Mapping[str, torch.Tensor]):
    """Tensors by name, with the values that they had when they were put here.

    A tensor in memory is looked at as it is: nobody may change it. One in the file is read anew
    each time, onto the device that it came from.
    """

    on_all_bytes: ClassVar[int] = 0
    """What all shelves of this process hold in memory."""

    def __init__(self) -> None:
        self._places: dict[str, torch.Tensor | _Filed] = {}
        self._held_bytes = 0
        self._file: _NamelessFile | None = None

    def __del__(self) -> None:
        Shelf.on_all_bytes -= self._held_bytes
        if self._file is not None:
            self._file.close()

    @torch.no_grad()
    def put(self, name: str, tensor: torch.Tensor) -> None:
        """Puts a tensor's values here. Raises UsageError where the disk has no room for them."""
        self._put(name, tensor.detach().resolve_conj(), torch.clone)

    @torch.no_grad()
    def take(self, name: str, tensor: torch.Tensor) -> None:
        """As `put`, of a tensor that nobody else has: in memory, it is not copied."""
        self._put(name, tensor.detach().resolve_conj(), lambda plain: plain)

    def _put(
        self, name: str, plain: torch.Tensor, held: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        if Spending.is_free() or Shelf.on_all_bytes + plain.nbytes <= IN_MEMORY_BYTES:
            Shelf.on_all_bytes += plain.nbytes
            self._held_bytes += plain.nbytes
            self._places[name] = held(plain)
            return
        if self._file is None:
            self._file = _NamelessFile()
        on_host = plain.cpu().contiguous()
        offset = self._file.append(bytes_of(on_host))
        self._places[name] = _Filed(offset, plain.shape, plain.dtype, plain.device)

    def __getitem__(self, name: str) -> torch.Tensor:
        place = self._places[name]
        if isinstance(place, torch.Tensor):
            return place
        assert self._file is not None, "what is filed is in the file"
        tensor = torch.empty(place.shape, dtype=place.dtype)
        self._file.read(place.offset, bytes_of(tensor))
        return tensor.to(place.device)

    @torch.no_grad()
    def put_back(self, name: str, tensor: torch.Tensor) -> None:
        """Gives a tensor the values that lie here by this name: from the file without memory of
        their own, where it can take them."""
        place = self._places[name]
        direct = tensor.is_contiguous() and tensor.device.type == "cpu" and not tensor.is_conj()
        if isinstance(place, _Filed) and self._file is not None and direct:
            self._file.read(place.offset, bytes_of(tensor.detach()))
        else:
            tensor.copy_(self[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def put_aside(tensors: Mapping[str, torch.Tensor]) -> Shelf:
    """A shelf with the values of these tensors."""
    shelf = Shelf()
    for name, tensor in tensors.items():
        shelf.put(name, tensor)
    return shelf


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor on the host, for as long as the tensor is held. Not
    through NumPy, which has no bfloat16 and whose readings keep FSDP from freeing a storage."""
    if not tensor.nbytes:
        return memoryview(b"")
    return memoryview((ctypes.c_ubyte * tensor.nbytes).from_address(tensor.data_ptr())).cast("B")


class _NamelessFile:
    """A file without a name: nothing is left of it, however the rank ends."""

    def __init__(self) -> None:
        self._folder = folder_on_disk()
        # The shelf closes it.
        self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
        self._end = 0

    def append(self, content: memoryview) -> int:
        """Writes at the end of the file; returns where that was."""
        start = self._end
        while content:
            try:
                # At most 2 GiB are written by one call.
                written = os.pwrite(self._file.fileno(), content, self._end)
            except OSError as error:
                raise UsageError(
                    f"the proof puts tensors aside in {self._folder}, and cannot write"
                    f" {len(content) / _GIBIBYTE:.1f} GiB more there ({error.strerror}): set TMPDIR"
                    " to a folder on a disk with more room"
                ) from error
            self._end += written
            content = content[written:]
        return start

    def close(self) -> None:
        """Gives up the file and its room on the disk."""
        self._file.close()

    def read(self, offset: int, into: memoryview) -> None:
        """Fills a piece of memory from the file."""
        while into:
            count = os.preadv(self._file.fileno(), [into], offset)
            assert count > 0, "what was written can be read"
            offset += count
            into = into[count:]


def folder_on_disk(mounts: Path = Path("/proc/mounts")) -> str:
    """The folder of temporary files, or /var/tmp where files in that one take memory and in
    /var/tmp do not."""
    usual = tempfile.gettempdir()
    try:
        kinds = [line.split()[1:3] for line in mounts.read_text().splitlines()]
    except OSError:
        return usual
    on_disk = _kind_of(usual, kinds) not in _TAKE_MEMORY
    if on_disk or _kind_of(_ON_DISK, kinds) in _TAKE_MEMORY or not os.access(_ON_DISK, os.W_OK):
        return usual
    return _ON_DISK


def _kind_of(folder: str, mounts: list[list[str]]) -> str:
    """The file system that a folder is in: the one mounted nearest to it, the last if there are
    several."""
    path = Path(folder).resolve()
    above = [(point, kind) for point, kind in mounts if path.is_relative_to(point)]
    nearest = max((len(Path(point).parts) for point, _ in above), default=0)
    kinds = [kind for point, kind in above if len(Path(point).parts) == nearest]
    return kinds[-1] if kinds else ""
