"""The facts of the environment that only a rank can see: versions and settings of its libraries,
and the environment variables that decide speed, as they are in the rank."""

import hashlib
import os
from collections.abc import Collection, Mapping

import torch

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.messages import Place

MALLOC_VARIABLES = (
    "LD_PRELOAD",
    "GLIBC_TUNABLES",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
)
"""These decide how the C library hands out memory: on CPU ranks, up to a tenth of a step's time."""


VARIABLE_PREFIXES = (
    "CUBLAS_",
    "CUDA_",
    "CUDNN_",
    "DNNL_",
    "GLOO_",
    "GOMP_",
    "HOROVOD_",
    "KMP_",
    "MKL_",
    "NCCL_",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_",
    "ONEDNN_",
    "OPENBLAS_",
    "PYTORCH_",
    "TORCHDYNAMO_",
    "TORCHINDUCTOR_",
    "TORCH_",
    "TRITON_",
)
"""Beginnings of the names of the variables that are recorded; no other variable is."""

NOT_RECORDED = (
    # Set by us, the same for every rank (controller/server_environment.py).
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUDA_DEVICE_ORDER",
    "GLOO_SOCKET_IFNAME",
    "NCCL_RAS_ENABLE",
    "NCCL_SOCKET_IFNAME",
    "OPENBLAS_NUM_THREADS",
    "TORCH_NCCL_SHOW_EAGER_INIT_P2P_SERIALIZATION_WARNING",
    # Recorded as threads_per_rank and gpu_uuids.
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    # Where files lie.
    "CUDA_CACHE_PATH",
    "CUDA_HOME",
    "CUDA_PATH",
    "TORCHINDUCTOR_CACHE_DIR",
    # Of compiling only.
    "TORCHINDUCTOR_COMPILE_THREADS",
    "TORCH_EXTENSIONS_DIR",
    "TORCH_HOME",
    "TRITON_CACHE_DIR",
    "TRITON_HOME",
)
"""Variables of those names that say nothing about speed, or that are recorded in another way."""

_SECRETS = ("AUTH", "CREDENTIAL", "KEY", "PASS", "SECRET", "TOKEN")
"""A variable with one of these in its name is never recorded."""

MOST_VALUE = 200
"""Characters of a value that is recorded whole. Of a longer one the beginning is, and a digest."""

_DIGEST = 16


def speed_variables(
    variables: Mapping[str, str], launch_variables: Collection[str] = ()
) -> dict[str, str]:
    """The variables that decide speed, as facts "variables.NAME", sorted by name. Left out: an
    empty value, which is the same as none, and `launch_variables`, which this launch alone has."""
    return {
        f"variables.{name}": _bounded(value)
        for name, value in sorted(variables.items())
        if name.startswith(VARIABLE_PREFIXES)
        and name not in NOT_RECORDED
        and name not in launch_variables
        and not any(secret in name.upper() for secret in _SECRETS)
        and value
    }


def _bounded(value: str) -> str:
    text = "".join(letter if letter.isprintable() else "?" for letter in value)
    if len(text) <= MOST_VALUE:
        return text
    digest = hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGEST]
    return f"{text[: MOST_VALUE - _DIGEST - 4]}... {digest}"


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
        "malloc": " ".join(
            f"{name}={os.environ[name]}" for name in MALLOC_VARIABLES if name in os.environ
        ),
    }
    facts |= speed_variables(os.environ, place.launch_variables)
    return facts | (_gpu_facts(place.device) if place.device.startswith("cuda") else {})


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
