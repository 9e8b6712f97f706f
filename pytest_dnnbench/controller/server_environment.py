"""The environment variables of the fork server and of its ranks.

    the server      the pytest process's when it is started, DEFAULTS below them, OURS above them
    a rank          the same, and what has changed in the pytest process since: what a fixture or a
                    test sets in os.environ reaches the ranks of its launches

Some variables are read only when a library is loaded, which the server has done before a rank is
forked: when one of those changes, the server is started anew.
"""

import os
from collections.abc import Mapping

from pytest_dnnbench.speed_variables import LOOPBACK

DEFAULTS = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_MMAP_MAX_": "0",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""Makes the C library keep freed memory. By default it returns large pieces to the kernel or keeps
them, depending on what was freed before: a training step then takes 4 page faults in one launch and
4,580 in the next. It also asks for huge pages, which the kernel gives 2 MiB at a time: 5,500 page
faults to the end of resnet18's first step instead of 55,000. Variables that the user has set are
kept. (docs/appendix/measured.md, "The heap of CPU ranks")"""

OURS = {
    **LOOPBACK,
    # NCCL's service for queries, on a port that all jobs of a machine share.
    "NCCL_RAS_ENABLE": "0",
    # The order in which NVML, by which GPUs are leased, numbers them. CUDA's own is by speed.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    # A stage has more streams than the default of 8 queues, and two that share one wait for each
    # other: slower than need be.
    "CUDA_DEVICE_MAX_CONNECTIONS": "32",
    # A line for every group with a send of its own; each direction of our links has a group, so
    # that nothing waits for another's (rank/pipeline/transfer.py).
    "TORCH_NCCL_SHOW_EAGER_INIT_P2P_SERIALIZATION_WARNING": "false",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}
"""Loopback only, the devices that were leased, no compute threads started by an import, no line of
torch's that says nothing here: whatever the user has set."""

_REMOVED = ("NCCL_COMM_ID",)
"""An address at which NCCL would let every communicator of every launch meet."""

_PER_TEST = ("PYTEST_CURRENT_TEST",)
"""What pytest itself changes for every test."""

_PER_LAUNCH = ("OMP_NUM_THREADS",)
"""What every launch sets for its ranks."""

_READ_WHEN_LOADED = (
    "ATEN_",
    "DNNL_",
    "GLIBC_",
    "GOMP_",
    "KMP_",
    "LD_",
    "MALLOC_",
    "MKL_",
    "OMP_",
    "ONEDNN_",
    "OPENBLAS_",
    "PYTHONHASHSEED",
    "PYTORCH_",
    "TORCH_",
)
"""Beginnings of the names of variables that the dynamic linker, the C library, the interpreter,
torch and its libraries read once, when they are loaded."""


_TUNING = (
    *(prefix for prefix in _READ_WHEN_LOADED if prefix not in ("LD_", "PYTHONHASHSEED")),
    "CUBLAS_",
    "CUDNN_",
    "DNNBENCH_",
    "FI_",
    "GLOO_",
    "HOROVOD_",
    "NCCL_",
    "NVIDIA_TF32_OVERRIDE",
    "OFI_NCCL_",
    "UCX_",
)
"""Beginnings of the names of variables by which libraries are tuned."""

_PLACES = ("_DIR", "_HOME", "_PATH", "_FILE")
"""Ends of the names of variables that name files, which may lie elsewhere on another node."""


def server_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The fork server's variables; `environment` are those of the pytest process."""
    variables = {**DEFAULTS, **environment, **OURS}
    return {name: value for name, value in variables.items() if name not in _REMOVED}


def read_when_loaded(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables in which a rank cannot differ from its fork server."""
    settled = {*OURS, *_PER_LAUNCH}
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(_READ_WHEN_LOADED) and name not in settled
    }


def decides_speed(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that the agent of another node takes over from the pytest process, unless it is
    told more by its engine: those by which libraries are tuned, but not where files lie there."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(_TUNING)
        and name not in {*OURS, *_REMOVED}
        and not name.endswith(_PLACES)
    }


def changes(
    before: Mapping[str, str], now: Mapping[str, str] | None = None
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The variables that have been set or changed since `before`, and those that have been removed.

    `now`: by default the environment of this process.
    """
    now = os.environ if now is None else now
    settled = {*OURS, *_REMOVED, *_PER_TEST}
    changed = {
        name: value
        for name, value in now.items()
        if before.get(name) != value and name not in settled
    }
    return changed, tuple(sorted({*before} - {*now} - settled))
