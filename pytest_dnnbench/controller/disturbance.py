"""Disturbance: whether other processes used the devices of a launch, and in what state its GPUs
were.

Read only when a launch starts and ends, so that reading disturbs nothing; GPUs, by way of the
driver, also a few times a second in between (gpu_samples.py).

    CPU   the time that the leased cores were busy (/proc/stat), minus what the fork server and all
          ranks used (/proc/PID/stat of the server includes the children that it has waited for),
          minus what this process used
    GPU   the compute processes that NVML lists before the ranks start and after they have ended;
          clocks, temperature, power and throttle reasons before the ranks start and while they live
"""

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from pytest_dnnbench.controller.gpu_samples import GpuSamples
from pytest_dnnbench.controller.nvml import NvmlUnavailable, nvml
from pytest_dnnbench.proc import process_fields
from pytest_dnnbench.results.records.schema import GpuState

OTHERS_CORES = 0.2
"""The CPU load of other processes, in cores, from which on a launch on CPU ranks is disturbed."""

OTHERS_SHARE = 0.5
"""The same for ranks on GPUs, as a fraction of all cores: their steps need little of the CPU."""

LINGER_S = 1.0
"""How long the driver may list a process that has ended."""

LOOK_AGAIN_S = 0.02
"""How soon it is asked again: every launch of a session may wait for the answer."""

THROTTLED_SHARE = 0.01
"""For which fraction of a launch a GPU may be slowed down by heat or by the power brake."""

_LEAST_S = 0.1
"""Less foreign CPU time than this counts as none: the kernel counts in ticks of 10 ms per core."""

# user, nice, system, steal. Not irq and softirq, which the ranks' own traffic causes.
_BUSY_COLUMNS = (0, 1, 2, 7)
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")

_THROTTLES = {
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
    0x4: "power cap",
}
"""NVML's bits of the throttle reasons that are recorded."""

# A power cap limits many GPUs every day: it is recorded and does not count as a disturbance.
_DISTURBING_THROTTLES = ("slowdown", "brake")


@dataclass(frozen=True, slots=True)
class CpuSample:
    """CPU seconds until `at_s`: `busy_s` of the cores in question, None where the kernel does not
    report it; `ours_s` of this process, the fork server and its ranks. `server` is the process id
    of the fork server."""

    at_s: float
    busy_s: float | None
    ours_s: float
    server: int | None


@dataclass(frozen=True, slots=True)
class Observation:
    """What was observed during one launch: why it was disturbed, or None; the load of other
    processes in cores, None where it is not known; the states of its GPUs by UUID."""

    disturbed: str | None = None
    others_cores: float | None = None
    gpu_before: dict[str, GpuState] = field(default_factory=dict)
    gpu_after: dict[str, GpuState] = field(default_factory=dict)


class Watch:
    """Observes one launch: made when its devices are leased, finished when its ranks have ended.

    `uuids` are those of its GPUs, `cores` the numbers of its cores. `server_pid` is called twice:
    if the fork server was replaced in between, the load of other processes is not known.
    """

    def __init__(
        self, uuids: Sequence[str], cores: Sequence[int], server_pid: Callable[[], int | None]
    ) -> None:
        self.uuids = tuple(uuids)
        self.cores = frozenset(cores)
        self.server_pid = server_pid
        self._ranks: set[int] = set()
        self._gpus_before = self._gpus_after = _left_alone(self.uuids)
        self.samples = GpuSamples(self.uuids)
        """What its GPUs were while ranks ran."""
        self._cpu_before = sample_cpu(self.cores, server_pid())

    def ranks_started(self, pids: Sequence[int]) -> None:
        """Names the ranks' processes: the driver may list them a little longer than they live."""
        self._ranks.update(pids)
        self.samples.read(now=True)

    def due_s(self) -> float | None:
        """Seconds until `sample` has something to do; None where it never has."""
        return self.samples.due_s()

    def sample(self) -> None:
        """To be called while ranks run: reads their GPUs a few times a second."""
        self.samples.read()

    def ranks_reported(self) -> None:
        """To be called while the ranks still hold their GPUs."""
        self.samples.read(now=True)
        self._gpus_after = read_gpus(self.uuids)

    def finish(self) -> Observation:
        """To be called when the ranks have ended."""
        others = others_cores(self._cpu_before, sample_cpu(self.cores, self.server_pid()))
        reasons = [
            *_foreign_processes(self._gpus_before, "when the launch started"),
            *_foreign_processes(_left_alone(self.uuids, self._ranks), "when the launch had ended"),
            *self._slowdowns(),
        ]
        limit = OTHERS_SHARE * len(self.cores) if self.uuids else OTHERS_CORES
        if others is not None and others >= limit:
            reasons.append(f"other processes used {others:.1f} of {len(self.cores)} cores")
        return Observation("; ".join(reasons) or None, others, self._gpus_before, self._gpus_after)

    def _slowdowns(self) -> list[str]:
        """Why the GPUs were slower than they could be: by their counters or, where they have none,
        by their state right after the launch."""
        reasons = []
        for uuid, state in self._gpus_after.items():
            shares = self.samples.throttled_share(uuid)
            slowed = [
                f"{name} for {share:.0%} of the launch"
                for name, share in shares.items()
                if share >= THROTTLED_SHARE and name.endswith(_DISTURBING_THROTTLES)
            ]
            if not shares:
                slowed = [
                    name
                    for name in state.throttled_by or ()
                    if name.endswith(_DISTURBING_THROTTLES)
                ]
            reasons += [f"GPU {uuid} was slowed down: {name}" for name in slowed]
        return reasons


class NoWatch:
    """Observes nothing: for launches that are not timed."""

    def __init__(self) -> None:
        self.samples = GpuSamples(())

    def due_s(self) -> float | None:
        """As Watch.due_s."""
        return None

    def sample(self) -> None:
        """As Watch.sample."""

    def ranks_started(self, pids: Sequence[int]) -> None:
        """As Watch.ranks_started."""

    def ranks_reported(self) -> None:
        """As Watch.ranks_reported."""

    def finish(self) -> Observation:
        """As Watch.finish."""
        return Observation()


def others_cores(before: CpuSample, after: CpuSample) -> float | None:
    """The load of other processes between two samples, in cores; None where it is not known."""
    server_replaced = before.server is not None and before.server != after.server
    if before.busy_s is None or after.busy_s is None or server_replaced:
        return None
    wall_s = after.at_s - before.at_s
    others_s = after.busy_s - before.busy_s - (after.ours_s - before.ours_s)
    return round(others_s / wall_s, 3) if wall_s > 0 and others_s >= _LEAST_S else 0.0


def sample_cpu(cores: frozenset[int], server: int | None) -> CpuSample:
    """The CPU times until now, of these cores and of this process with the fork server."""
    ours_s = time.process_time() + (0.0 if server is None else _family_s(server))
    return CpuSample(time.monotonic(), _busy_s(cores), ours_s, server)


def read_gpus(uuids: Sequence[str]) -> dict[str, GpuState]:
    """The state of each GPU; empty without a driver."""
    if not uuids:
        return {}
    try:
        with nvml() as library:
            return {uuid: _gpu_state(library, uuid) for uuid in uuids}
    except NvmlUnavailable:
        return {}


_READINGS: Mapping[str, Callable[[Any, Any], Any]] = {
    "processes": lambda nvml, gpu: [
        process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(gpu)
    ],
    "sm_clock_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
    "memory_clock_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM),
    "temperature_c": lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(
        gpu, nvml.NVML_TEMPERATURE_GPU
    ),
    "power_w": lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
    "throttled_by": lambda nvml, gpu: [
        name
        for bit, name in _THROTTLES.items()
        if nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu) & bit
    ],
}
"""How each field of a GpuState is read."""


def _gpu_state(library: Any, uuid: str) -> GpuState:
    readings: dict[str, Any] = {}
    for name, read in _READINGS.items():
        # Each GPU and driver lacks some figures; those stay out of the state.
        with suppress(library.NVMLError):
            readings[name] = read(library, library.nvmlDeviceGetHandleByUUID(uuid))
    return GpuState(**readings)


def _left_alone(uuids: Sequence[str], ours: Collection[int] = ()) -> dict[str, GpuState]:
    """The state of each GPU, without our own ranks among its processes.

    The driver closes the context of a process that has ended a moment later, and in a container it
    lists processes under ids that are not ours: where a GPU is in use it is asked again, for up to
    LINGER_S.
    """
    deadline = time.monotonic() + LINGER_S
    while True:
        states = {uuid: _without(state, ours) for uuid, state in read_gpus(uuids).items()}
        if time.monotonic() >= deadline or not any(state.processes for state in states.values()):
            return states
        time.sleep(LOOK_AGAIN_S)


def _without(state: GpuState, ours: Collection[int]) -> GpuState:
    if not state.processes:
        return state
    foreign = type(state.processes)(pid for pid in state.processes if pid not in ours)
    return msgspec.structs.replace(state, processes=foreign)


def _foreign_processes(gpus: Mapping[str, GpuState], when: str) -> list[str]:
    return [
        f"process {', '.join(map(str, state.processes))} used GPU {uuid} {when}"
        for uuid, state in gpus.items()
        if state.processes
    ]


def _busy_s(cores: frozenset[int]) -> float | None:
    """Seconds that these cores have been busy since boot; None where the kernel reports nothing."""
    busy = total = 0
    with suppress(OSError, ValueError):
        for line in Path("/proc/stat").read_text().splitlines():
            name, *ticks = line.split()
            if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
                busy += sum(int(ticks[column]) for column in _BUSY_COLUMNS if column < len(ticks))
                total += sum(map(int, ticks[:8]))
    return busy * _TICK_S if total else None


def _family_s(pid: int) -> float:
    """CPU seconds of a process and of the children that it has waited for."""
    with suppress(OSError, ValueError, IndexError):
        return sum(int(ticks) for ticks in process_fields(pid)[11:15]) * _TICK_S
    return 0.0
