"""Readings of GPUs are cut to the timed window, whenever they came. NVML and the clock are
injected."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_dnnbench.controller.disturbance import Watch
from pytest_dnnbench.controller.gpu_samples import SAMPLE_S, GpuSamples
from pytest_dnnbench.messages import RankReport
from pytest_dnnbench.results.records.measurement import Launch
from pytest_dnnbench.results.records.schema import Conditions, GpuWindow, NodeConditions
from tests.controller.fake_nvml import FakeNvml, NvmlError

SECOND_NS = 10**9


class Gpu:
    """A GPU that draws 100 W until second 10 and 300 W from then on; from there on it is also too
    hot for a tenth of the time."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.asked = 0

    def clock(self) -> float:
        return self.now_s

    def energy_mj(self, _: Any) -> float:
        self.asked += 1
        return 1e3 * (100 * self.now_s + 200 * max(0.0, self.now_s - 10))

    def fields(self, _: Any, ids: list[int]) -> list[Any]:
        hot_ns = int(0.1 * max(0.0, self.now_s - 10) * SECOND_NS)
        return [
            SimpleNamespace(
                fieldId=field,
                nvmlReturn=3 if field == 271 else 0,  # not supported
                value=SimpleNamespace(ullVal=hot_ns if field == 269 else 0),
            )
            for field in ids
        ]

    def library(self, **answers: Any) -> FakeNvml:
        return FakeNvml(
            "GPU-a",
            **{
                "TotalEnergyConsumption": self.energy_mj,
                "FieldValues": self.fields,
                "PowerUsage": lambda _: 100_000 if self.now_s < 10 else 300_000,
                "UtilizationRates": lambda _: SimpleNamespace(gpu=50),
                "ClockInfo": lambda _, __: 1980,
                "ComputeRunningProcesses": lambda _: [],
                **answers,
            },
        )


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    simulated = Gpu()
    monkeypatch.setitem(sys.modules, "pynvml", simulated.library())
    return simulated


def read_until(gpu: Gpu, end_s: float, step_s: float = 0.1) -> GpuSamples:
    """A loop that wakes every tenth of a second, for other reasons too."""
    samples = GpuSamples(["GPU-a"], gpu.clock)
    samples.read(now=True)
    while gpu.now_s < end_s:
        gpu.now_s += step_s
        samples.read()
    samples.read(now=True)
    return samples


def test_energy_and_medians_are_those_of_the_window(gpu: Gpu) -> None:
    samples = read_until(gpu, 20.0)
    window = samples.window(11.03, 17.03)["GPU-a"]
    assert window.energy_j == pytest.approx(300 * 6)
    assert (window.power_w, window.utilisation, window.sm_clock_mhz) == (300.0, 0.5, 1980)
    assert window.temperature_c is None, "this GPU has none"
    assert window.throttled_s == {"software thermal slowdown": pytest.approx(0.6)}
    assert 18 <= window.samples <= 25
    # Where the power changes within the window, by less than what is drawn in one interval.
    both = samples.window(8.0, 12.0)["GPU-a"].energy_j
    assert both == pytest.approx(100 * 2 + 300 * 2, abs=200 * SAMPLE_S)


def test_gpus_are_read_no_more_often_than_asked_for(gpu: Gpu) -> None:
    samples = read_until(gpu, 10.0, step_s=0.01)
    assert 10 / SAMPLE_S * 0.9 <= gpu.asked <= 10 / SAMPLE_S + 2
    assert samples.due_s() == pytest.approx(SAMPLE_S, abs=0.02)
    assert GpuSamples([]).due_s() is None, "CPU ranks wake nobody"


def test_a_short_window_and_one_outside_the_readings_have_no_energy(gpu: Gpu) -> None:
    samples = read_until(gpu, 5.0)
    assert samples.window(2.0, 2.5)["GPU-a"].energy_j is None
    assert samples.window(2.0, 6.0)["GPU-a"].energy_j is None
    assert samples.window(6.0, 9.0)["GPU-a"] == GpuWindow()


def test_a_counter_that_starts_again_gives_no_energy(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    reset = gpu.library(TotalEnergyConsumption=lambda _: 1e6 if gpu.now_s < 3 else 0.0)
    monkeypatch.setitem(sys.modules, "pynvml", reset)
    window = read_until(gpu, 6.0).window(1.0, 3.05)["GPU-a"]
    assert window.energy_j is None


def test_a_gpu_without_these_counters_is_no_error(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: Any) -> None:
        raise NvmlError("Not Supported")

    poor = gpu.library(TotalEnergyConsumption=unsupported, FieldValues=unsupported)
    monkeypatch.setitem(sys.modules, "pynvml", poor)
    samples = read_until(gpu, 6.0)
    window = samples.window(2.0, 5.0)["GPU-a"]
    assert (window.energy_j, window.throttled_s, window.power_w) == (None, {}, 100.0)
    assert samples.throttled_share("GPU-a") == {}


def test_a_gpu_that_was_hot_during_the_launch_disturbs_it_although_it_is_idle_now(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = gpu.library(CurrentClocksThrottleReasons=lambda _: 0x1)
    monkeypatch.setitem(sys.modules, "pynvml", idle)
    watch = Watch(["GPU-a"], [], lambda: None)
    watch.samples.clock = gpu.clock
    gpu.now_s = 10.0
    watch.ranks_started([1])
    gpu.now_s = 20.0
    watch.sample()
    watch.ranks_reported()
    assert watch.finish().disturbed == (
        "GPU GPU-a was slowed down: software thermal slowdown for 10% of the launch"
    )


def test_a_launchs_energy_is_that_of_all_its_gpus_per_sample() -> None:
    reports = tuple(RankReport(rank, 0.0, 2.0, (0, 1), (1.0, 2.0), (8, 8), 16) for rank in range(2))
    windows = {"GPU-a": GpuWindow(energy_j=640.0), "GPU-b": GpuWindow(energy_j=320.0)}
    conditions = Conditions(gpu_uuids=("GPU-a", "GPU-b"), gpu_window=windows)
    assert Launch(reports, conditions)._job_figure("energy_per_sample_j") == 960 / 32
    one_is_silent = Conditions(gpu_uuids=("GPU-a", "GPU-b"), gpu_window={"GPU-a": windows["GPU-a"]})
    assert Launch(reports, one_is_silent)._job_figure("energy_per_sample_j") is None
    assert Launch(reports)._job_figure("energy_per_sample_j") is None
    on_cpu = tuple(
        RankReport(rank, 0.0, 2.0, (0, 1), (1.0, 2.0), (8, 8), 16, cpu_energy_j=energy_j)
        for rank, energy_j in enumerate((64.0, None))
    )
    assert Launch(on_cpu)._job_figure("energy_per_sample_j") == 2.0
    # Rank 0 reads its own node, and the samples are those of both.
    nodes = [NodeConditions(name=name, ranks=1) for name in ("n1", "n2")]
    assert Launch(on_cpu, Conditions(nodes=nodes))._job_figure("energy_per_sample_j") is None
    assert Launch(on_cpu, Conditions(nodes=nodes[:1]))._job_figure("energy_per_sample_j") == 2.0
