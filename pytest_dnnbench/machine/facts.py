"""What Linux says of a machine that decides how steady its figures are, read from /sys and /proc.

A fact that the kernel does not give is None, or empty. What follows from facts is in advice.py.
"""

from contextlib import suppress
from pathlib import Path

import msgspec

from pytest_dnnbench.controller.machine import cpu_quota
from pytest_dnnbench.controller.nvml import NvmlUnavailable, nvml, opened_gpus


class GpuFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one GPU: its power limit and the default one, in watts, and whether the driver
    stays loaded between programs."""

    name: str
    power_limit_w: float | None = None
    default_limit_w: float | None = None
    persistent: bool | None = None


class MachineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Settings and load of a machine.

    `governors` counts the cores of each frequency governor. `turbo`: clocks above the nominal one
    are allowed. `smt`: two threads share a core. `huge_pages` is the kernel's choice in force.
    `quota_cores` is a container's CPU quota. `load_1min` counts waiting and running threads.
    `steal` is the share of all CPU time since the start that the host gave to others.
    `returns_pages`: this virtual machine gives free memory back to its host, and must fetch it
    anew.
    """

    cores: int
    governors: dict[str, int] = {}
    turbo: bool | None = None
    smt: bool | None = None
    huge_pages: str | None = None
    quota_cores: float | None = None
    load_1min: float | None = None
    swap_used_bytes: int | None = None
    numa_nodes: int | None = None
    numa_balancing: bool | None = None
    steal: float | None = None
    returns_pages: bool | None = None
    gpus: list[GpuFacts] = []


def read_facts(
    cores: int,
    sys: Path = Path("/sys"),
    proc: Path = Path("/proc"),
    gpus: list[GpuFacts] | None = None,
) -> MachineFacts:
    """The facts under these roots. `cores` is how many this process may use; `gpus`: None asks
    NVML."""
    cpu = sys / "devices/system/cpu"
    return MachineFacts(
        cores=cores,
        governors=_governors(cpu),
        turbo=_turbo(cpu),
        smt=_flag(cpu / "smt/active"),
        huge_pages=_chosen(sys / "kernel/mm/transparent_hugepage/enabled"),
        quota_cores=cpu_quota(sys / "fs/cgroup", proc / "self/cgroup"),
        load_1min=_load(proc),
        swap_used_bytes=_swap_used(proc),
        numa_nodes=len(list(sys.glob("devices/system/node/node[0-9]*"))) or None,
        numa_balancing=_flag(proc / "sys/kernel/numa_balancing"),
        steal=_steal(proc),
        returns_pages=_returns_pages(sys / "bus/virtio/devices"),
        gpus=_gpus() if gpus is None else gpus,
    )


def _text(path: Path) -> str | None:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text().strip()
    return None


def _flag(path: Path) -> bool | None:
    """A file that holds 0 or 1; numa_balancing has more modes, all of them on."""
    text = _text(path)
    return None if text is None or not text.isdigit() else text != "0"


def _governors(cpu: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for path in sorted(cpu.glob("cpu[0-9]*/cpufreq/scaling_governor")):
        if name := _text(path):
            counts[name] = counts.get(name, 0) + 1
    return counts


def _turbo(cpu: Path) -> bool | None:
    """Intel's driver says whether turbo is off, the others whether boost is on."""
    off = _flag(cpu / "intel_pstate/no_turbo")
    return _flag(cpu / "cpufreq/boost") if off is None else not off


def _chosen(path: Path) -> str | None:
    """The word in brackets."""
    text = _text(path) or ""
    chosen = text.partition("[")[2].partition("]")[0]
    return chosen or None


def _load(proc: Path) -> float | None:
    with suppress(ValueError, IndexError):
        return float((_text(proc / "loadavg") or "").split()[0])
    return None


def _swap_used(proc: Path) -> int | None:
    fields = dict(
        line.split(":", 1) for line in (_text(proc / "meminfo") or "").splitlines() if ":" in line
    )
    with suppress(KeyError, ValueError, IndexError):
        total, free = (int(fields[name].split()[0]) for name in ("SwapTotal", "SwapFree"))
        return 1024 * (total - free)
    return None


def _steal(proc: Path) -> float | None:
    """The eighth number of the first line, over the first eight: user to steal."""
    with suppress(ValueError, IndexError):
        times = [int(word) for word in (_text(proc / "stat") or "").splitlines()[0].split()[1:9]]
        return times[7] / sum(times) if sum(times) else None
    return None


_BALLOON, _PAGE_REPORTING = "0x0005", 5
"""The kind of a virtio device, and the bit of its features, by which free pages go to the host
(Virtual I/O Device Version 1.2, 5.5)."""


def _returns_pages(devices: Path) -> bool | None:
    """Whether a memory balloon reports free pages; None where there is none."""
    balloons = [each for each in devices.glob("*") if _text(each / "device") == _BALLOON]
    # The features are a text of 0 and 1, bit 0 first.
    bits = [
        (_text(each / "features") or "")[_PAGE_REPORTING : _PAGE_REPORTING + 1] for each in balloons
    ]
    return "1" in bits if balloons else None


def _gpus() -> list[GpuFacts]:
    gpus = []
    with suppress(NvmlUnavailable), nvml() as library:
        for handle in opened_gpus(library)[0]:
            facts: dict[str, object] = {}
            # Each call by itself: a driver without one of them has the others.
            with suppress(library.NVMLError):
                facts["power_limit_w"] = library.nvmlDeviceGetPowerManagementLimit(handle) / 1e3
            with suppress(library.NVMLError):
                default = library.nvmlDeviceGetPowerManagementDefaultLimit(handle)
                facts["default_limit_w"] = default / 1e3
            with suppress(library.NVMLError):
                facts["persistent"] = bool(library.nvmlDeviceGetPersistenceMode(handle))
            name = str(library.nvmlDeviceGetName(handle))
            gpus.append(msgspec.convert({"name": name, **facts}, GpuFacts))
    return gpus
