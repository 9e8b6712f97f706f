"""Fingerprints of tensors: equal exactly where every bit is."""

import hashlib
from collections.abc import Mapping

import torch

from pytest_dnnbench.rank.proof.shelf import bytes_of


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """A fingerprint of every bit of the tensors: equal on two ranks exactly when the tensors
    are."""
    fingerprint = TensorFingerprint()
    for name in sorted(tensors):
        fingerprint.add(name, tensors[name])
    return fingerprint.hexdigest()


class TensorFingerprint:
    """A fingerprint of every bit of tensors that are at hand one after the other."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Takes in the next tensor."""
        self._hash.update(name.encode())
        plain = tensor.detach().cpu().resolve_conj().contiguous()  # held while it is read
        self._hash.update(bytes_of(plain))

    def hexdigest(self) -> str:
        """Of all tensors so far."""
        return self._hash.hexdigest()
