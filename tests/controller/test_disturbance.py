"""Foreign load and foreign GPU processes are noticed, our own are not. The load is real; NVML is
injected."""

import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_dnnbench.controller.disturbance import (
    OTHERS_CORES,
    CpuSample,
    Observation,
    Watch,
    others_cores,
    read_gpus,
    sample_cpu,
)
from pytest_dnnbench.controller.machine import detect
from pytest_dnnbench.results.records.schema import GpuState
from tests.controller.fake_nvml import FakeNvml


def test_the_load_of_others_is_what_neither_ranks_nor_pytest_used() -> None:
    before = CpuSample(at_s=10.0, busy_s=100.0, ours_s=50.0, server=7)
    assert others_cores(before, CpuSample(14.0, 106.0, 54.0, 7)) == 0.5
    assert others_cores(before, CpuSample(14.0, 104.05, 54.0, 7)) == 0.0
    assert others_cores(before, CpuSample(14.0, 104.2, 54.0, 7)) == 0.05
    assert others_cores(before, CpuSample(14.0, 103.0, 54.0, 7)) == 0.0
    assert others_cores(before, CpuSample(14.0, 106.0, 54.0, 8)) is None
    assert others_cores(before, CpuSample(14.0, None, 54.0, 7)) is None


def test_children_that_a_process_waited_for_count_as_its_own() -> None:
    compute = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(10**7))'])"
    parent = subprocess.Popen([sys.executable, "-c", f"{compute}; input()"], stdin=subprocess.PIPE)
    try:
        while sample_cpu(frozenset(), parent.pid).ours_s - time.process_time() < 0.05:
            assert parent.poll() is None
            time.sleep(0.01)
    finally:
        parent.communicate(b"\n")


def test_a_process_of_others_disturbs_a_launch_on_the_cpu() -> None:
    cores = detect("cpu").affinity
    compute = "import time\nwhile time.process_time() < 0.8: pass"
    load = 0.0
    while load < OTHERS_CORES:  # as of a process that loses its core for seconds
        begun = time.monotonic()
        watch = Watch([], cores, lambda: None)
        subprocess.run([sys.executable, "-c", compute], check=True)
        observation = watch.finish()
        assert observation.others_cores is not None
        load = observation.others_cores
        assert load * (time.monotonic() - begun) > 0.6, "seconds that it computed"
    assert observation.disturbed == (f"other processes used {load:.1f} of {len(cores)} cores")


def test_without_cores_of_its_own_a_launch_knows_no_load_of_others() -> None:
    assert Watch([], [], lambda: None).finish() == Observation()


def test_a_foreign_process_and_a_hot_gpu_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    running = [SimpleNamespace(pid=4711)]
    library = FakeNvml(
        "GPU-a",
        ComputeRunningProcesses=lambda _: list(running),
        CurrentClocksThrottleReasons=lambda _: 0x44,
        ClockInfo=lambda _, clock: 1400 + clock,
        PowerUsage=lambda _: 250_500,
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    watch = Watch(["GPU-a"], [], lambda: None)
    running.clear()
    watch.ranks_reported()
    observation = watch.finish()
    assert observation.disturbed == (
        "process 4711 used GPU GPU-a when the launch started;"
        " GPU GPU-a was slowed down: hardware thermal slowdown"
    )
    assert observation.gpu_before["GPU-a"].processes == [4711]
    assert observation.gpu_after["GPU-a"] == GpuState(
        processes=[],
        sm_clock_mhz=1401,
        memory_clock_mhz=1402,
        power_w=250.5,
        throttled_by=["hardware thermal slowdown", "power cap"],
    )


def test_our_own_ranks_and_a_power_cap_are_no_disturbance(monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[Any] = []
    library = FakeNvml(
        "GPU-a",
        ComputeRunningProcesses=lambda _: list(running),
        CurrentClocksThrottleReasons=lambda _: 0x4,
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    watch = Watch(["GPU-a"], [], lambda: None)
    running.append(SimpleNamespace(pid=1))
    watch.ranks_reported()
    running.clear()
    assert watch.finish().disturbed is None


def test_a_gpu_is_read_when_its_ranks_start_and_report_however_short_the_launch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Counters count between two readings, and a launch may end before a second one is due."""
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml("GPU-a"))
    watch = Watch(["GPU-a"], [], lambda: None)
    watch.ranks_started([1])
    assert len(watch.samples.samples["GPU-a"]) == 1
    watch.sample()
    assert len(watch.samples.samples["GPU-a"]) == 1, "the next is not due"
    watch.ranks_reported()
    assert len(watch.samples.samples["GPU-a"]) == 2


def test_ranks_that_the_driver_lists_a_moment_longer_are_no_disturbance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Right after ranks have ended it may list them still, in a container under other ids."""
    readings = [[], [4711], [4711], [815], []]
    library = FakeNvml(
        "GPU-a",
        ComputeRunningProcesses=lambda _: [SimpleNamespace(pid=pid) for pid in readings.pop(0)],
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    watch = Watch(["GPU-a"], [], lambda: None)
    watch.ranks_started([4711])
    watch.ranks_reported()
    assert watch.finish().disturbed is None, "the rank is known by its id"
    assert readings == [[815], []]
    assert watch.finish().disturbed is None, "the unknown process is gone a moment later"
    assert readings == []


def test_a_missing_driver_gives_no_states(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = FakeNvml("GPU-a")
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert read_gpus(["GPU-a"]) == {"GPU-a": GpuState()}
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(driver=None))
    assert read_gpus(["GPU-a"]) == {}
