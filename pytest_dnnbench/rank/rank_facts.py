"""The facts of the environment that only a rank can see: versions and settings of its libraries,
and the environment variables that decide speed (speed_variables.py), as they are in the rank."""

import os
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch.utils import deterministic

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.messages import Place
from pytest_dnnbench.rank.interpreter import peculiarities
from pytest_dnnbench.speed_variables import speed_variables

_LOADED_FIRST = ("LD_PRELOAD", "GLIBC_TUNABLES")

_OF_ALLOCATORS = ("MALLOC_", "MIMALLOC_", "TCMALLOC_")
"""Beginnings of the names of what the C library, jemalloc and others read. They decide how memory
is handed out: on CPU ranks, up to a tenth of a step's time."""


def environment(place: Place) -> dict[str, Scalar | None]:
    """Versions and settings, for the record's environment: they must match before two runs are
    compared."""
    facts: dict[str, Scalar | None] = {
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "threads_per_rank": torch.get_num_threads(),
        "garbage_collection": "off in the window",
        "interop_threads": torch.get_num_interop_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "mkldnn": bool(torch.backends.mkldnn.enabled),
        "matmul_precision": _matmul_precision(),
        "torch_settings": torch_settings(),
        "malloc": malloc_settings(os.environ),
        "interpreter": peculiarities(),
    }
    facts |= speed_variables(os.environ, place.launch_variables)
    return facts | (_gpu_facts(place.device) if place.device.startswith("cuda") else {})


def torch_settings() -> str:
    """The settings of torch that decide speed and are not its defaults, as NAME=VALUE. Not here:
    those with a fact of their own, and those that the case's precision sets."""
    values = {name: look() for name, (look, _) in _DEFAULTS.items()}
    return " ".join(
        f"{name}={value}" for name, value in values.items() if value != _DEFAULTS[name][1]
    )


def _flushes_denormals() -> bool:
    """Whether products below the smallest normal number are zero: torch has no getter for it."""
    tiny = torch.finfo(torch.float32).tiny
    return not torch.full((1,), tiny, dtype=torch.float32).mul(0.5).item()


_CUDA, _CUDNN, _MKLDNN = (
    torch.backends.cuda,
    torch.backends.cudnn,
    cast("Any", torch.backends.mkldnn),
)
_DETERMINISTIC = cast("Any", deterministic)
_DEFAULTS: dict[str, tuple[Callable[[], object], object]] = {
    "attention_cudnn": (_CUDA.cudnn_sdp_enabled, True),
    "attention_efficient": (_CUDA.mem_efficient_sdp_enabled, True),
    "attention_flash": (_CUDA.flash_sdp_enabled, True),
    "attention_math": (_CUDA.math_sdp_enabled, True),
    "bf16_reduction": (lambda: _CUDA.matmul.allow_bf16_reduced_precision_reduction, True),
    "cudnn": (lambda: _CUDNN.enabled, True),
    "cudnn_deterministic": (lambda: _CUDNN.deterministic, False),
    "detect_anomaly": (torch.is_anomaly_enabled, False),
    "fill_uninitialized_memory": (lambda: _DETERMINISTIC.fill_uninitialized_memory, True),
    "flush_denormal": (_flushes_denormals, False),
    "fp16_accumulation": (lambda: _CUDA.matmul.allow_fp16_accumulation, False),
    "fp16_reduction": (lambda: _CUDA.matmul.allow_fp16_reduced_precision_reduction, True),
    "mkldnn_conv": (lambda: _MKLDNN.conv.fp32_precision, "none"),
    "mkldnn_deterministic": (lambda: _MKLDNN.deterministic, False),
    "mkldnn_rnn": (lambda: _MKLDNN.rnn.fp32_precision, "none"),
}
"""How each setting is read, and its default."""


def malloc_settings(variables: Mapping[str, str]) -> str:
    """The variables by which memory is handed out, as NAME=VALUE."""
    others = sorted(name for name in variables if name.startswith(_OF_ALLOCATORS))
    names = [name for name in (*_LOADED_FIRST, *others) if name in variables]
    return " ".join(f"{name}={variables[name]}" for name in names)


def _matmul_precision() -> str:
    """What single-precision products are rounded to: for all devices, or where they differ, which
    torch's one name cannot say, by device."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        backends = {"cuda": torch.backends.cuda.matmul, "mkldnn": torch.backends.mkldnn.matmul}  # type: ignore[attr-defined] # untyped
        return " ".join(f"{name}={backend.fp32_precision}" for name, backend in backends.items())


def _gpu_facts(device: str) -> dict[str, Scalar | None]:
    major, minor = torch.cuda.get_device_capability(device)
    nccl = torch.cuda.nccl.version()  # type: ignore[no-untyped-call] # torch's gap
    return {
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call] # torch's gap
        "nccl": ".".join(str(part) for part in nccl),
        "compute_capability": f"{major}.{minor}",
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }
