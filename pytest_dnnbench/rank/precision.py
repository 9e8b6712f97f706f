"""The precision of a case: which number types its forward passes compute in.

fp32    IEEE single precision everywhere
tf32    single precision, which a GPU's matrix units round to TF32
bf16    autocast to bfloat16; the weights stay in single precision
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pytest_dnnbench.case import PRECISIONS
from pytest_dnnbench.errors import UsageError


def autocast(
    precision: str, device: torch.device, dtype: torch.dtype = torch.float32
) -> torch.autocast:
    """The context of one forward pass on tensors of a type. Casts to bfloat16 for "bf16", but never
    in double precision, in which proofs run. The weights are cast anew in every pass."""
    enabled = precision == "bf16" and dtype == torch.float32
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def set_matmul_precision(precision: str) -> None:
    """Lets a GPU's matrix units round to TF32 for "tf32", and for nothing else. Has no effect on a
    CPU."""
    for setting in _settings():
        setting.fp32_precision = "tf32" if precision == "tf32" else "ieee"


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """As `set_matmul_precision`, for the length of a `with`. Raises UsageError for an unknown
    precision."""
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is unknown: choose from {', '.join(PRECISIONS)}")
    before = [setting.fp32_precision for setting in _settings()]
    set_matmul_precision(precision)
    try:
        yield
    finally:
        for setting, value in zip(_settings(), before, strict=True):
            setting.fp32_precision = value


def _settings() -> tuple[Any, ...]:
    return torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined] # untyped
