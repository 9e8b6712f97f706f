"""What this machine has to run ranks on. Looked up without torch: NVML for GPUs, /proc for the CPU."""

import ast
import importlib.metadata
import importlib.util
import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pytest_dnnbench.errors import UsageError


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU that ranks may use, in the order CUDA will number them."""

    name: str
    uuid: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Machine:
    """The devices of a session. `kind` is "cuda" or "cpu"; on "cpu" a device is a process, of which there is no end."""

    kind: str
    gpus: tuple[Gpu, ...]
    driver: str | None
    cores: int
    cpu: str
    why: str

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
    """The machine as `wanted` ("auto", "cuda", "cpu") says. Raises UsageError when CUDA was asked for and is absent."""
    gpus, driver, why = _cuda() if wanted != "cpu" else ((), None, "as asked for")
    if wanted == "cuda" and not gpus:
        raise UsageError(f"--dnn-device cuda: {why}; use --dnn-device cpu to run on CPU ranks")
    return Machine("cuda" if gpus else "cpu", gpus, driver, len(os.sched_getaffinity(0)), _cpu_model(), why)


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
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        every = [
            Gpu(pynvml.nvmlDeviceGetName(one), pynvml.nvmlDeviceGetUUID(one), pynvml.nvmlDeviceGetMemoryInfo(one).total)
            for one in handles
        ]
        gpus = visible(every, os.environ.get("CUDA_VISIBLE_DEVICES"))
        return gpus, pynvml.nvmlSystemGetDriverVersion(), "CUDA_VISIBLE_DEVICES hides every GPU" if every else "no GPU"
    finally:
        pynvml.nvmlShutdown()


def visible(gpus: list[Gpu], variable: str | None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order: indices or prefixes of UUIDs up to the first bad one."""
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
    """The CUDA version that torch was built for, read from its version file; None for a CPU build."""
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


def _cpu_model() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()
