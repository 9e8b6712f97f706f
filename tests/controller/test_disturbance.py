"""Isolation: foreign load and foreign GPU processes are noticed, our own are not; NVML is
injected."""

import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_dnnbench.controller import disturbance
from pytest_dnnbench.controller.disturbance import CpuSample, Watch, others_cores, sample_cpu


class NvmlError(Exception):
    """What the injected NVML raises."""


def nvml(**answers: Any) -> Any:
    """An NVML with the given answers; whatever else is asked of a GPU is not supported."""

    def unsupported(*_: Any) -> None:
        raise NvmlError

    names = (
        "ComputeRunningProcesses",
        "ClockInfo",
        "Temperature",
        "PowerUsage",
        "CurrentClocksThrottleReasons",
    )
    fake = SimpleNamespace(
        NVMLError=NvmlError, NVML_CLOCK_SM=1, NVML_CLOCK_MEM=2, NVML_TEMPERATURE_GPU=0
    )
    fake.nvmlInit = fake.nvmlShutdown = lambda: None
    fake.nvmlDeviceGetHandleByUUID = lambda uuid: uuid
    for name in names:
        setattr(fake, f"nvmlDeviceGet{name}", answers.get(name, unsupported))
    return fake


def test_time_that_neither_ranks_nor_pytest_used_is_the_others() -> None:
    before = CpuSample(at_s=10.0, busy_s=100.0, ours_s=50.0, server=7)
    assert others_cores(before, CpuSample(14.0, 106.0, 54.0, 7)) == 0.5
    assert others_cores(before, CpuSample(14.0, 104.05, 54.0, 7)) == 0.0
    assert others_cores(before, CpuSample(14.0, 106.0, 54.0, 8)) is None
    assert others_cores(before, CpuSample(14.0, None, 54.0, 7)) is None


def test_children_that_a_process_waited_for_count_as_its_own() -> None:
    waits = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(10**7))']); input()"
    parent = subprocess.Popen([sys.executable, "-c", waits], stdin=subprocess.PIPE)
    try:
        while sample_cpu(frozenset(), parent.pid).ours_s - time.process_time() < 0.05:
            assert parent.poll() is None
            time.sleep(0.01)
    finally:
        parent.communicate(b"\n")


def test_a_busy_core_disturbs_a_launch_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = iter([CpuSample(0.0, 0.0, 0.0, 1), CpuSample(10.0, 25.0, 19.0, 1)])
    monkeypatch.setattr(disturbance, "sample_cpu", lambda *_: next(samples))
    found = Watch([], [0, 1, 2, 3], lambda: 1).finish()
    assert found == {"disturbed": "other processes used 0.6 of 4 cores", "others_cores": 0.6}


def test_a_foreign_process_and_a_hot_gpu_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    running = [SimpleNamespace(pid=4711)]
    answers = {
        "ComputeRunningProcesses": lambda _: list(running),
        "CurrentClocksThrottleReasons": lambda _: 0x44,
        "ClockInfo": lambda _, kind: 1400 + kind,
        "PowerUsage": lambda _: 250_500,
    }
    monkeypatch.setitem(sys.modules, "pynvml", nvml(**answers))
    watch = Watch(["GPU-a"], [], lambda: None)
    running.clear()
    watch.look_at_gpus()
    found = watch.finish()
    assert found["disturbed"] == (
        "process 4711 used GPU GPU-a when the launch started; GPU GPU-a was slowed down: hardware thermal slowdown"
    )
    state = found["gpu_state"]["after"]["GPU-a"]
    assert state == {
        "processes": [],
        "sm_clock_mhz": 1401,
        "memory_clock_mhz": 1402,
        "power_w": 250.5,
        "throttled_by": ["hardware thermal slowdown", "power cap"],
    }


def test_our_own_ranks_and_a_power_cap_are_no_disturbance(monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[Any] = []
    answers = {
        "ComputeRunningProcesses": lambda _: list(running),
        "CurrentClocksThrottleReasons": lambda _: 0x4,
    }
    monkeypatch.setitem(sys.modules, "pynvml", nvml(**answers))
    watch = Watch(["GPU-a"], [], lambda: None)
    running.append(SimpleNamespace(pid=1))
    watch.look_at_gpus()
    running.clear()
    assert watch.finish()["disturbed"] is None
