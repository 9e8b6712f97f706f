"""The devices of this machine that ranks can run on, detected without torch: GPUs through NVML,
cores through the kernel. Not here: which of them a launch gets (placement.py)."""

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.controller.gpu_links import links_of
from pytest_dnnbench.controller.nvml import NvmlUnavailable, nvml, opened_gpus
from pytest_dnnbench.controller.torch_build import installed_torch
from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.proc import control_groups, cpu_model

_GIB = 2**30

_COMPUTE_MODES = {1: "exclusive thread", 2: "prohibited", 3: "exclusive process"}
"""NVML_COMPUTEMODE_..., but for the default."""

RANK_BYTES = 64 * 2**20
"""A CPU rank that has joined its group needs a third of this, without a model. More ranks than
memory has room for are refused: the kernel would kill other programs for them."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU that ranks may use, in the order CUDA will number them.

    `cores` are the kernel's numbers of the cores nearest to it that this process may use; empty
    where they are not known. `sliced`: ranks get a slice of it (MIG); it is leased whole.
    `settings` are what its administrator has set that decides speed, by name: "power_limit_w",
    "ecc", "compute_mode" where it is not the default one, "mps" where processes share GPUs through
    NVIDIA's Multi-Process Service; those that it does not have are left out. `links` are its
    connections with other GPUs, by their UUIDs (gpu_links.py).
    """

    name: str
    uuid: str
    cores: tuple[int, ...] = ()
    sliced: bool = False
    settings: tuple[tuple[str, Scalar], ...] = ()
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """The devices of a session.

    `kind` is "cuda" or "cpu"; on "cpu" each rank is a device, and memory alone limits them.
    `cores` is how many cores ranks may use, `affinity` the kernel's numbers of all cores that this
    process may run on. `why` explains the kind. `ranks_per_gpu`: so many ranks share a GPU and take
    turns on it, to be proven and not to be fast. `memory_bytes` is the main memory; 0: not known.
    """

    kind: str
    gpus: tuple[Gpu, ...]
    driver: str | None
    cores: int
    cpu: str
    why: str
    affinity: tuple[int, ...] = ()
    ranks_per_gpu: int = 1
    memory_bytes: int = 0

    @property
    def core_numbers(self) -> tuple[int, ...]:
        """The kernel's numbers of the cores. A CPU quota limits time and names no cores: under one,
        the numbers from 0 stand for shares of it."""
        return self.affinity if len(self.affinity) == self.cores else tuple(range(self.cores))

    @property
    def under_quota(self) -> bool:
        """Whether a CPU quota allows fewer cores than the affinity has; the kernel then chooses
        which cores."""
        return len(self.affinity) > self.cores

    @property
    def default_count(self) -> int:
        """The largest number of ranks where the user gives none: as all GPUs take, or two CPU
        ranks."""
        return len(self.gpus) * self.ranks_per_gpu if self.kind == "cuda" else 2

    def shortage(self, count: int) -> str | None:
        """Why `count` ranks cannot run here; None when they can."""
        needed = self.gpus_for(count)
        if self.kind == "cuda" and needed > len(self.gpus):
            return f"{counted(needed, 'GPU')} needed and {len(self.gpus)} here"
        if self.kind == "cpu" and self.memory_bytes and count * RANK_BYTES > self.memory_bytes:
            return (
                f"{count} CPU ranks need {count * RANK_BYTES / _GIB:,.0f} GiB of memory at least,"
                f" and this machine has {self.memory_bytes / _GIB:,.0f}"
            )
        return None

    def gpus_for(self, count: int) -> int:
        """The GPUs that so many ranks take."""
        return -(-count // self.ranks_per_gpu)

    def places(self, count: int) -> tuple[str, ...]:
        """One torch device per rank."""
        if self.kind != "cuda":
            return ("cpu",) * count
        return tuple(f"cuda:{rank // self.ranks_per_gpu}" for rank in range(count))

    def oversubscribed(self, count: int) -> bool:
        """Whether so many ranks share devices: CPU ranks that outnumber the cores, or ranks on one
        GPU."""
        if self.kind == "cuda":
            return count > self.gpus_for(count)
        return count > self.cores

    def threads(self, count: int) -> int:
        """Compute threads per rank when `count` ranks share the cores."""
        return max(1, self.cores // count)

    def describe(self) -> str:
        """One line for pytest's header."""
        cores = f"{counted(self.cores, 'core')} ({self.cpu})"
        if self.kind == "cpu":
            return f"CPU ranks on {cores}; {self.why}"
        names = sorted({gpu.name for gpu in self.gpus})
        return f"{len(self.gpus)} x {', '.join(names)}, driver {self.driver}, {cores}"


def detect(device: str) -> Machine:
    """The machine for `--dnn-device` "auto", "cuda" or "cpu". Raises UsageError where "cuda" is not
    possible."""
    gpus, driver, why = _cuda() if device != "cpu" else ((), None, "as asked for")
    if device == "cuda" and not gpus:
        raise UsageError(f"--dnn-device cuda: {why}; use --dnn-device cpu to run on CPU ranks")
    affinity = tuple(sorted(os.sched_getaffinity(0)))
    cores = usable_cores(len(affinity), cpu_quota())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    kind = "cuda" if gpus else "cpu"
    return Machine(kind, gpus, driver, cores, cpu_model(), why, affinity, memory_bytes=memory)


def usable_cores(affine: int, quota: float | None) -> int:
    """The number of cores that ranks may use: `affine` by the affinity, at most the whole cores in
    the CPU quota, at least 1."""
    return affine if quota is None else max(1, min(affine, int(quota)))


def cpu_quota(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> float | None:
    """The smallest `cpu.max` of this process's control group (version 2) and its parents, in cores;
    None without a quota."""
    group = control_groups(membership).get("")
    if group is None:
        return None
    folder, quotas = root / group.strip("/"), []
    for level in (folder, *folder.parents):
        if not level.is_relative_to(root):
            break
        # A level without a quota says "max", which is no number.
        with suppress(OSError, ValueError):
            allowed, period = (level / "cpu.max").read_text().split()
            quotas.append(int(allowed) / int(period))
    return min(quotas, default=None)


def _cuda() -> tuple[tuple[Gpu, ...], str | None, str]:
    """The GPUs, the driver's version, and why there are no GPUs."""
    torch = installed_torch()
    if torch is None or torch.cuda is None:
        version = "(not installed)" if torch is None else torch.version
        return (), None, f"torch {version} is built without CUDA"
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        with nvml() as library:
            handles, refused = opened_gpus(library)
            gpus, by_uuid = [], {}
            for handle in handles:
                try:
                    gpus.append(_gpu(library, handle))
                    by_uuid[gpus[-1].uuid] = handle
                except library.NVMLError as error:
                    refused.append(f"a GPU does not answer: {error}")
            links = links_of(library, by_uuid)
            gpus = [replace(gpu, links=tuple(links[gpu.uuid].items())) for gpu in gpus]
            driver = library.nvmlSystemGetDriverVersion()
            if variable is not None and variable.strip().startswith("MIG-"):
                return _slice(library, variable, driver)
    except NvmlUnavailable as error:
        return (), None, f"no NVIDIA driver answers ({error})"
    chosen = visible(gpus, variable)
    return chosen, driver, _why_none(gpus, refused, variable)


def _gpu(library: Any, handle: Any) -> Gpu:
    sliced = False
    with suppress(library.NVMLError):
        sliced = bool(library.nvmlDeviceGetMigMode(handle)[0])
    name, uuid = library.nvmlDeviceGetName(handle), library.nvmlDeviceGetUUID(handle)
    return Gpu(name, uuid, _near_cores(library, handle), sliced, _settings(library, handle))


def _settings(library: Any, handle: Any) -> tuple[tuple[str, Scalar], ...]:
    settings: list[tuple[str, Scalar]] = []
    with suppress(library.NVMLError):
        limit_mw = library.nvmlDeviceGetPowerManagementLimit(handle)
        settings.append(("power_limit_w", limit_mw / 1000))
    with suppress(library.NVMLError):
        settings.append(("ecc", bool(library.nvmlDeviceGetEccMode(handle)[0])))
    with suppress(library.NVMLError):
        if mode := library.nvmlDeviceGetComputeMode(handle):
            settings.append(("compute_mode", _COMPUTE_MODES.get(mode, str(mode))))
    if os.path.exists(_mps_pipe()):  # false also where the folder is another user's alone
        settings.append(("mps", True))
    return tuple(settings)


def _mps_pipe() -> Path:
    """Where CUDA looks for the daemon of the Multi-Process Service: a process that finds it there
    shares its GPU through it."""
    folder = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")  # noqa: S108 - NVIDIA's
    return Path(folder) / "control"


def _near_cores(library: Any, handle: Any) -> tuple[int, ...]:
    """The cores of the GPU's NUMA node, as NVML gives them: words of 64 bits, a bit per core."""
    usable = os.sched_getaffinity(0)
    try:
        words = library.nvmlDeviceGetCpuAffinity(handle, max(usable) // 64 + 1)
    except library.NVMLError:
        return ()
    return tuple(core for core in sorted(usable) if words[core // 64] >> core % 64 & 1)


def _slice(library: Any, variable: str, driver: str) -> tuple[tuple[Gpu, ...], str, str]:
    """The GPU of the first slice in CUDA_VISIBLE_DEVICES: CUDA uses no other in one process."""
    entry = variable.split(",")[0].strip()
    try:
        handle = library.nvmlDeviceGetHandleByUUID(entry)
        gpu = _gpu(library, library.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle))
    except library.NVMLError as error:
        return (
            (),
            driver,
            f"NVML does not know the slice of CUDA_VISIBLE_DEVICES, {entry} ({error})",
        )
    return (replace(gpu, sliced=True),), driver, ""


def _why_none(gpus: list[Gpu], refused: list[str], variable: str | None) -> str:
    """Why no GPU is visible, in case none is."""
    if gpus and variable is not None:
        entries = _entries(variable)
        twice = ", for it names one twice" if len(set(entries)) < len(entries) else ""
        return f"CUDA_VISIBLE_DEVICES={variable!r} hides every GPU{twice}"
    if refused:
        return f"NVML opens no GPU ({'; '.join(refused)})"
    return "no GPU"


def _entries(variable: str) -> list[str]:
    return [entry.strip() for entry in variable.split(",")]


def visible(gpus: list[Gpu], variable: str | None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order: indices, or prefixes of UUIDs. Like
    CUDA, stops at the first entry that matches no GPU, and leaves none if one is named twice."""
    if variable is None:
        return tuple(gpus)
    chosen: list[Gpu] = []
    for entry in _entries(variable):
        if entry.isdigit():
            matches = gpus[int(entry) : int(entry) + 1]
        else:
            matches = [
                gpu for gpu in gpus if entry.startswith("GPU-") and gpu.uuid.startswith(entry)
            ]
        if not matches:
            break
        if matches[0] in chosen:
            return ()
        chosen.append(matches[0])
    return tuple(chosen)
