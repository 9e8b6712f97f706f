"""What this machine has to run ranks on. Looked up without torch: NVML for GPUs, /proc for the
CPU."""

import ast
import importlib.metadata
import importlib.util
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.proc import cpu_model


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU that ranks may use, in the order CUDA will number them."""

    name: str
    uuid: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Machine:
    """The devices of a session. `kind` is "cuda" or "cpu"; on "cpu" a device is a process, of which
    there is no end."""

    kind: str
    gpus: tuple[Gpu, ...]
    driver: str | None
    cores: int
    cpu: str
    why: str
    affinity: tuple[int, ...] = ()

    @property
    def core_numbers(self) -> tuple[int, ...]:
        """The cores as the kernel numbers them; under a CPU quota, which names none, so many places
        instead."""
        return self.affinity if len(self.affinity) == self.cores else tuple(range(self.cores))

    @property
    def under_quota(self) -> bool:
        """Whether a quota allows for fewer cores than the affinity has: which ones, the kernel
        decides."""
        return len(self.affinity) > self.cores

    @property
    def default_count(self) -> int:
        """Devices to go up to when the user does not say: all GPUs; two CPU ranks."""
        return len(self.gpus) if self.kind == "cuda" else 2

    def shortage(self, count: int) -> str | None:
        """Why `count` ranks cannot run here; None when they can."""
        if self.kind == "cuda" and count > len(self.gpus):
            return f"{count} GPUs are needed and {len(self.gpus)} are here"
        return None

    def places(self, count: int) -> tuple[str, ...]:
        """One torch device per rank."""
        return tuple(f"cuda:{index}" if self.kind == "cuda" else "cpu" for index in range(count))

    def oversubscribed(self, count: int) -> bool:
        """Whether that many ranks share cores."""
        return count > self.cores

    def threads(self, count: int) -> int:
        """Compute threads of one of `count` ranks: the cores, divided."""
        return max(1, self.cores // count)

    def describe(self) -> str:
        """One line for pytest's header."""
        cores = f"{self.cores} cores ({self.cpu})"
        if self.kind == "cpu":
            return f"CPU ranks on {cores}; {self.why}"
        names = sorted({gpu.name for gpu in self.gpus})
        return f"{len(self.gpus)} x {', '.join(names)}, driver {self.driver}, {cores}"


def detect(wanted: str) -> Machine:
    """The machine as `wanted` ("auto", "cuda", "cpu") says. Raises UsageError when CUDA was asked
    for and is absent."""
    gpus, driver, why = _cuda() if wanted != "cpu" else ((), None, "as asked for")
    if wanted == "cuda" and not gpus:
        raise UsageError(f"--dnn-device cuda: {why}; use --dnn-device cpu to run on CPU ranks")
    affinity = tuple(sorted(os.sched_getaffinity(0)))
    cores = usable_cores(len(affinity), cpu_quota())
    return Machine("cuda" if gpus else "cpu", gpus, driver, cores, cpu_model(), why, affinity)


def usable_cores(affine: int, quota: float | None) -> int:
    """Cores to count on: those of the affinity, but no more than the whole ones that a quota pays
    for."""
    return affine if quota is None else max(1, min(affine, int(quota)))


def cpu_quota(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> float | None:
    """The least `cpu.max` of this process's cgroup (version 2) and those above it, in cores; None
    without one."""
    quotas = []
    with suppress(OSError, StopIteration):
        own = next(
            line[3:] for line in membership.read_text().splitlines() if line.startswith("0::")
        )
        folder = root / own.strip("/")
        for group in (folder, *folder.parents):
            if not group.is_relative_to(root):
                break
            with suppress(OSError, ValueError):
                allowed, period = (group / "cpu.max").read_text().split()
                quotas.append(
                    int(allowed) / int(period)
                )  # "max" is no number: no quota at this level
    return min(quotas, default=None)


def torch_version() -> str:
    """The installed torch, without importing it."""
    return importlib.metadata.version("torch")


def _cuda() -> tuple[tuple[Gpu, ...], str | None, str]:
    if torch_cuda() is None:
        return (), None, f"torch {torch_version()} is built without CUDA"
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return (), None, f"no NVIDIA driver answers ({error})"
    try:
        handles = [
            pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
        ]
        every = [
            Gpu(
                pynvml.nvmlDeviceGetName(one),
                pynvml.nvmlDeviceGetUUID(one),
                pynvml.nvmlDeviceGetMemoryInfo(one).total,
            )
            for one in handles
        ]
        gpus = visible(every, os.environ.get("CUDA_VISIBLE_DEVICES"))
        return (
            gpus,
            pynvml.nvmlSystemGetDriverVersion(),
            "CUDA_VISIBLE_DEVICES hides every GPU" if every else "no GPU",
        )
    finally:
        pynvml.nvmlShutdown()


def visible(gpus: list[Gpu], variable: str | None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order: indices or prefixes of UUIDs up to
    the first bad one."""
    if variable is None:
        return tuple(gpus)
    chosen: list[Gpu] = []
    for entry in variable.split(","):
        entry = entry.strip()
        found = [gpu for gpu in gpus if entry.startswith("GPU-") and gpu.uuid.startswith(entry)]
        if entry.isdigit() and int(entry) < len(gpus):
            found = [gpus[int(entry)]]
        if not found:
            break
        chosen += found[:1]
    return tuple(chosen)


def torch_cuda() -> str | None:
    """The CUDA version that torch was built for, read from its version file; None for a CPU
    build."""
    specification = importlib.util.find_spec("torch")
    if specification is None or specification.origin is None:
        return None
    source = Path(specification.origin).with_name("version.py").read_text()
    for node in ast.parse(source).body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == "cuda" for target in targets):
                return ast.literal_eval(node.value) if node.value else None
    return None
