"""The facts of the environment that only a rank can see: versions and settings of its libraries."""

import os

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


def environment(place: Place) -> dict[str, Scalar | None]:
    """Versions and settings, for the record's environment: they must match before two runs are
    compared."""
    facts: dict[str, Scalar | None] = {
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "threads_per_rank": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "malloc": " ".join(
            f"{name}={os.environ[name]}" for name in MALLOC_VARIABLES if name in os.environ
        ),
    }
    return facts | (_gpu_facts(place.device) if place.device.startswith("cuda") else {})


def _gpu_facts(device: str) -> dict[str, Scalar | None]:
    major, minor = torch.cuda.get_device_capability(device)
    nccl = torch.cuda.nccl.version()  # type: ignore[no-untyped-call] # torch's gap
    return {
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call] # torch's gap
        "nccl": ".".join(str(part) for part in nccl),
        "compute_capability": f"{major}.{minor}",
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }
