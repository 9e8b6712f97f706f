"""The buffers of a module by name, read and put back, also where a forward replaces them by new
tensors."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class Buffers:
    """The places of a module's buffers. A buffer that several submodules share has several, and
    goes by the first of its names: `canonical` maps each name to that."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._places: dict[str, list[tuple[dict[str, torch.Tensor | None], str]]] = {}
        self.canonical: dict[str, str] = {}
        names: dict[int, str] = {}
        for prefix, part in module.named_modules():
            for key, buffer in part._buffers.items():
                if buffer is not None:
                    path = f"{prefix}.{key}" if prefix else key
                    name = self.canonical[path] = names.setdefault(id(buffer), path)
                    self._places.setdefault(name, []).append((part._buffers, key))

    def copies(self) -> dict[str, torch.Tensor]:
        """The values of now, which later passes do not change."""
        copies = {}
        for name, places in self._places.items():
            table, key = places[0]
            buffer = table[key]
            assert buffer is not None, f"the forward pass has removed the buffer {name!r}"
            copies[name] = buffer.detach().clone()
        return copies

    def tensors(self) -> list[torch.Tensor]:
        """The buffers themselves, each once."""
        first_places = (places[0] for places in self._places.values())
        return [buffer for table, key in first_places if (buffer := table[key]) is not None]

    def put(self, values: dict[str, torch.Tensor]) -> None:
        """Puts copies of these values in place; names that are no buffers' are passed over."""
        for name, places in self._places.items():
            if name in values:
                value = values[name].clone()
                for table, key in places:
                    table[key] = value

    @contextmanager
    def borrowed(self, values: dict[str, torch.Tensor]) -> Iterator[None]:
        """For the length of a `with`, copies of these values stand in the places of the buffers.
        The same tensors as before are back afterwards: others, as DistributedDataParallel, may hold
        them too."""
        own = [
            (table, key, table[key]) for places in self._places.values() for table, key in places
        ]
        self.put(values)
        try:
            yield
        finally:
            for table, key, buffer in own:
                table[key] = buffer
