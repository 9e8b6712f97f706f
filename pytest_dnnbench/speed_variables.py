"""The environment variables that decide speed: which are recorded, as what, and which of them may
be set again from a record."""

import hashlib
import re
from collections.abc import Collection, Mapping

PREFIX = "variables."
"""Of the facts that a record holds of them."""

VARIABLE_PREFIXES = (
    "CUBLAS_",
    "CUDA_",
    "CUDNN_",
    "DNNL_",
    "FI_",
    "GLOO_",
    "GOMP_",
    "HOROVOD_",
    "KMP_",
    "MKL_",
    "NCCL_",
    "NVIDIA_TF32_OVERRIDE",
    "OFI_NCCL_",
    "OMP_",
    "ONEDNN_",
    "OPENBLAS_",
    "PYTORCH_",
    "TORCHDYNAMO_",
    "TORCHINDUCTOR_",
    "TORCH_",
    "TRITON_",
    "UCX_",
)
"""Beginnings of the names of the variables that are recorded; no other variable is."""

NOT_RECORDED = (
    # Set by us, the same for every rank (controller/server_environment.py).
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUDA_DEVICE_ORDER",
    "NCCL_RAS_ENABLE",
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

LOOPBACK = {
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "=lo",  # without the sign, every interface whose name begins so
}
"""The interfaces of ranks on one machine, whatever the user has set. What ranks on several nodes
have of their user is recorded."""

_SECRETS = ("AUTH", "CREDENTIAL", "KEY", "PASS", "SECRET", "TOKEN")
"""A variable with one of these in its name is never recorded."""

MOST_VALUE = 200
"""Characters of a value that is recorded whole. Of a longer one the beginning is, and a digest."""

_DIGEST = 16

_CUT = re.compile(rf"\.\.\. [0-9a-f]{{{_DIGEST}}}$")

_FILES = ("DIR", "DIRECTORY", "FILE", "HOME", "PATH", "PLUGIN", "PRELOAD", "SCRIPT")
"""Ends of the words of names by which a library finds other files, some of which it runs."""


def speed_variables(
    variables: Mapping[str, str], launch_variables: Collection[str] = ()
) -> dict[str, str]:
    """The variables that decide speed, as facts "variables.NAME", sorted by name. Left out: an
    empty value, which is the same as none, the interfaces of one machine, and `launch_variables`,
    which this launch alone has."""
    return {
        f"{PREFIX}{name}": _bounded(value)
        for name, value in sorted(variables.items())
        if name.startswith(VARIABLE_PREFIXES)
        and name not in NOT_RECORDED
        and name not in launch_variables
        and value != LOOPBACK.get(name)
        and not any(secret in name.upper() for secret in _SECRETS)
        and value
    }


def _bounded(value: str) -> str:
    text = "".join(letter if letter.isprintable() else "?" for letter in value)
    if len(text) <= MOST_VALUE:
        return text
    digest = hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGEST]
    return f"{text[: MOST_VALUE - _DIGEST - 4]}... {digest}"


def cannot_be_set(name: str, value: str) -> str:
    """Why a process must not get this variable from a record; empty where it may: a file must not
    decide which other files a process reads or runs, and a value may not be there whole."""
    if not name.startswith(VARIABLE_PREFIXES) or name in NOT_RECORDED:
        return "no variable of those that are recorded"
    if name in LOOPBACK:
        return "it names interfaces of other machines"
    if len(value) == MOST_VALUE and _CUT.search(value):
        return "the record holds its beginning only"
    if any(map(_is_about_files, name.split("_"))) or "/" in value or ".so" in value:
        return "it names files of the machine"
    return ""


def _is_about_files(word: str) -> bool:
    """As PATHS and LIBRARIES are; ALLOC_CONF, DIRECT and PROFILE are settings."""
    is_file = word.startswith("LIB") or word.removesuffix("S").endswith(_FILES)
    return is_file and word != "PROFILE"
