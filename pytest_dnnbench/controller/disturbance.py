"""Isolation: who else used the devices of a launch, and in what state its GPUs were.

Looked at only when a launch starts and ends, so that looking disturbs nothing. CPU: the time that
the leased cores were busy (/proc/stat), less what the fork server and all ranks used
(/proc/PID/stat of the server, which counts the children that it has waited for), less this
process's own. GPU: the compute processes that NVML lists before the ranks start and after they have
ended, and clocks, temperature, power and throttle reasons before and while ranks still live.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_dnnbench.proc import process_fields

OTHERS_CORES = 0.2
"""From this much foreign CPU time per second on (in cores), a launch on CPU ranks counts as
disturbed."""

OTHERS_SHARE = 0.5
"""The same for ranks on GPUs, as a share of all cores: their steps need little of the CPU."""

_LEAST_S = 0.1
_BUSY = (
    0,
    1,
    2,
    7,
)  # user, nice, system, steal; not irq and softirq, which the ranks' own traffic causes
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_THROTTLES = {
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
} | {
    0x80: "power brake",
    0x4: "power cap",
}
_GRAVE = (
    "slowdown",
    "brake",
)  # a power cap is how many GPUs run every day: recorded, not called a disturbance


@dataclass(frozen=True, slots=True)
class CpuSample:
    """CPU seconds up to now: of the cores in question, of this session. None: not known."""

    at_s: float
    busy_s: float | None
    ours_s: float
    server: int | None


class Watch:
    """Watches one launch: made when its devices are leased, finished when its ranks have ended.

    `server_pid` is asked twice: a fork server that was replaced in between leaves the CPU's figure
    out.
    """

    def __init__(
        self, uuids: Sequence[str], cores: Sequence[int], server_pid: Callable[[], int | None]
    ) -> None:
        self.uuids = list(uuids)
        self.cores = frozenset(cores)
        self.server_pid = server_pid
        self._gpus_before = self._gpus_after = read_gpus(self.uuids)
        self._cpu = sample_cpu(self.cores, server_pid())

    def look_at_gpus(self) -> None:
        """To be called while the ranks still hold their GPUs."""
        self._gpus_after = read_gpus(self.uuids)

    def finish(self) -> dict[str, Any]:
        """`disturbed`: the reason, or None. `others_cores`: the foreign CPU load. `gpu_state`: what
        NVML said."""
        others = others_cores(self._cpu, sample_cpu(self.cores, self.server_pid()))
        left = read_gpus(self.uuids) if self.uuids else {}
        reasons = [
            *_foreign(self._gpus_before, "when the launch started"),
            *_foreign(left, "when the launch had ended"),
            *_throttled(self._gpus_after),
        ]
        limit = OTHERS_SHARE * len(self.cores) if self.uuids else OTHERS_CORES
        if others is not None and others >= limit:
            reasons.append(f"other processes used {others:.1f} of {len(self.cores)} cores")
        found: dict[str, Any] = {"disturbed": "; ".join(reasons) or None, "others_cores": others}
        if self._gpus_after:
            found["gpu_state"] = {"before": self._gpus_before, "after": self._gpus_after}
        return found


def others_cores(before: CpuSample, after: CpuSample) -> float | None:
    """The foreign load between two samples, in cores; None where it cannot be told."""
    if (
        before.busy_s is None
        or after.busy_s is None
        or (before.server is not None and before.server != after.server)
    ):
        return None
    wall, others = (
        after.at_s - before.at_s,
        after.busy_s - before.busy_s - (after.ours_s - before.ours_s),
    )
    return round(max(0.0, others) / wall, 3) if wall > 0 and others >= _LEAST_S else 0.0


def sample_cpu(cores: frozenset[int], server: int | None) -> CpuSample:
    """CPU times up to now."""
    return CpuSample(
        time.monotonic(), _busy_s(cores), time.process_time() + _family_s(server), server
    )


def read_gpus(uuids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What NVML says of each GPU; a figure that this GPU or driver does not have is left out."""
    if not uuids:
        return {}
    import pynvml

    found: dict[str, dict[str, Any]] = {}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    try:
        for uuid in uuids:
            state: dict[str, Any] = {}
            for name, read in _READINGS.items():
                with suppress(pynvml.NVMLError):
                    state[name] = read(pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid))
            found[uuid] = state
    finally:
        pynvml.nvmlShutdown()
    return found


_READINGS: dict[str, Callable[[Any, Any], Any]] = {
    "processes": lambda nvml, gpu: [
        one.pid for one in nvml.nvmlDeviceGetComputeRunningProcesses(gpu)
    ],
    "sm_clock_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
    "memory_clock_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM),
    "temperature_c": lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(
        gpu, nvml.NVML_TEMPERATURE_GPU
    ),
    "power_w": lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
    "throttled_by": lambda nvml, gpu: _words(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)),
}


def _words(reasons: int) -> list[str]:
    return [word for bit, word in _THROTTLES.items() if reasons & bit]


def _foreign(gpus: dict[str, dict[str, Any]], when: str) -> list[str]:
    return [
        f"process {', '.join(map(str, state['processes']))} used GPU {uuid} {when}"
        for uuid, state in gpus.items()
        if state.get("processes")
    ]


def _throttled(gpus: dict[str, dict[str, Any]]) -> list[str]:
    return [
        f"GPU {uuid} was slowed down: {word}"
        for uuid, state in gpus.items()
        for word in state.get("throttled_by", ())
        if word.endswith(_GRAVE)
    ]


def _busy_s(cores: frozenset[int]) -> float | None:
    """Seconds that these cores have been busy since boot; None where the kernel does not tell."""
    busy = total = 0
    with suppress(OSError, ValueError):
        for line in Path("/proc/stat").read_text().splitlines():
            name, *ticks = line.split()
            if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
                busy += sum(int(ticks[column]) for column in _BUSY if column < len(ticks))
                total += sum(map(int, ticks[:8]))
    return busy * _TICK_S if total else None


def _family_s(pid: int | None) -> float:
    """CPU seconds of a process and of the children it has waited for."""
    with suppress(OSError, ValueError, IndexError):
        fields = process_fields(pid)
        return sum(int(ticks) for ticks in fields[11:15]) * _TICK_S
    return 0.0
