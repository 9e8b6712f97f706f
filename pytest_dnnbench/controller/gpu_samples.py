"""What NVML says of a launch's GPUs while its ranks run: read a few times a second, by the loop
that waits for the ranks, and cut to the timed window when the ranks have said when that was.

    samples       ●      ●      ●      ●      ●      ●
    window              ├─ timed steps ─┤
    medians                     ●      ●            of clock, power, utilisation, temperature
    counters            ┊               ┊           energy, time slowed down: between the samples
                                                    they are taken to grow evenly

Not here: who else uses the GPUs, and what disturbs a launch (disturbance.py).
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise

# By name: a test module of the user's may replace the clock in `time`.
from time import monotonic
from typing import Any

from pytest_dnnbench.controller.nvml import NvmlUnavailable, nvml
from pytest_dnnbench.results.records.schema import GpuWindow

SAMPLE_S = 0.25
"""How often GPUs are read."""

LEAST_WINDOW_S = 4 * SAMPLE_S
"""A shorter window has no energy: it would rest on how evenly power was drawn around it."""

_NANOSECOND, _MILLI = 1e-9, 1e-3

_THROTTLE_FIELDS = {
    74: "power cap",
    269: "software thermal slowdown",
    270: "hardware thermal slowdown",
    271: "power brake",
}
"""NVML's counters of the nanoseconds for which a GPU was slowed down (NVML_FI_DEV_...)."""


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One reading of one GPU: counters since the driver was loaded, and states by the name of their
    field in GpuWindow. What this GPU or driver does not have is left out."""

    at_s: float
    counters: Mapping[str, float]
    states: Mapping[str, float]


@dataclass(slots=True)
class GpuSamples:
    """The samples of a launch's GPUs, by UUID. `clock` gives the seconds that ranks report too."""

    uuids: Sequence[str]
    clock: Callable[[], float] = monotonic
    samples: dict[str, list[GpuSample]] = field(default_factory=dict)
    _next_s: float = 0.0

    def due_s(self) -> float | None:
        """Seconds until the next reading; None without GPUs."""
        return max(0.0, self._next_s - self.clock()) if self.uuids else None

    def read(self, *, now: bool = False) -> None:
        """Reads every GPU, if it is time to or has to be `now`."""
        if not self.uuids or not (now or self.clock() >= self._next_s):
            return
        self._next_s = self.clock() + SAMPLE_S
        with suppress(NvmlUnavailable), nvml() as library:
            for uuid in self.uuids:
                with suppress(library.NVMLError):
                    handle = library.nvmlDeviceGetHandleByUUID(uuid)
                    sample = _sample(library, handle, self.clock)
                    self.samples.setdefault(uuid, []).append(sample)

    def window(self, start_s: float, end_s: float) -> dict[str, GpuWindow]:
        """What the samples say of a stretch of time, by UUID; empty for a GPU that was not read."""
        return {uuid: _window_of(samples, start_s, end_s) for uuid, samples in self.samples.items()}

    def throttled_share(self, uuid: str) -> dict[str, float]:
        """For which fraction of the time between the first and the last reading a GPU was slowed
        down, by reason; empty without the counters."""
        samples = self.samples.get(uuid, [])
        if len(samples) < 2 or samples[-1].at_s <= samples[0].at_s:
            return {}
        begin, end = samples[0], samples[-1]
        return {
            name: (end.counters[name] - begin.counters[name]) / (end.at_s - begin.at_s)
            for name in _THROTTLE_FIELDS.values()
            if name in begin.counters and name in end.counters
        }


_STATES: Mapping[str, Callable[[Any, Any], float]] = {
    "power_w": lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) * _MILLI,
    "utilisation": lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
    "sm_clock_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
    "temperature_c": lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(
        gpu, nvml.NVML_TEMPERATURE_GPU
    ),
}


def _sample(library: Any, handle: Any, clock: Callable[[], float]) -> GpuSample:
    counters: dict[str, float] = {}
    # The counters and their time first: they are read most exactly.
    at_s = clock()
    with suppress(library.NVMLError):
        counters["energy_j"] = library.nvmlDeviceGetTotalEnergyConsumption(handle) * _MILLI
    with suppress(library.NVMLError):
        counters |= _throttle_counters(library, handle)
    states: dict[str, float] = {}
    for name, read in _STATES.items():
        with suppress(library.NVMLError):
            states[name] = read(library, handle)
    return GpuSample(at_s, counters, states)


def _throttle_counters(library: Any, handle: Any) -> dict[str, float]:
    """Seconds for which the GPU was slowed down, by reason, of the counters that it has."""
    values = library.nvmlDeviceGetFieldValues(handle, [*_THROTTLE_FIELDS])
    return {
        _THROTTLE_FIELDS[value.fieldId]: value.value.ullVal * _NANOSECOND
        for value in values
        if value.nvmlReturn == 0
    }


def _window_of(samples: Sequence[GpuSample], start_s: float, end_s: float) -> GpuWindow:
    inside = [sample for sample in samples if start_s <= sample.at_s <= end_s]

    def median(name: str) -> float | None:
        values = [sample.states[name] for sample in inside if name in sample.states]
        return statistics.median(values) if values else None

    def growth(name: str) -> float | None:
        between = [sample.counters[name] for sample in inside if name in sample.counters]
        values = [_at(samples, name, start_s), *between, _at(samples, name, end_s)]
        counted = [value for value in values if value is not None]
        # One that ran backwards was reset in between, as with the driver.
        if len(counted) < len(values) or counted != sorted(counted):
            return None
        return counted[-1] - counted[0]

    throttled = {name: growth(name) for name in _THROTTLE_FIELDS.values()}
    return GpuWindow(
        samples=len(inside),
        energy_j=growth("energy_j") if end_s - start_s >= LEAST_WINDOW_S else None,
        power_w=median("power_w"),
        utilisation=median("utilisation"),
        sm_clock_mhz=median("sm_clock_mhz"),
        temperature_c=median("temperature_c"),
        throttled_s={name: grown for name, grown in throttled.items() if grown},
    )


def _at(samples: Sequence[GpuSample], name: str, at_s: float) -> float | None:
    """A counter at a time between two samples; None outside of them."""
    for before, after in pairwise(sample for sample in samples if name in sample.counters):
        if before.at_s <= at_s <= after.at_s:
            passed = (at_s - before.at_s) / (after.at_s - before.at_s or 1.0)
            grown = after.counters[name] - before.counters[name]
            return before.counters[name] + grown * passed
    return None
