"""The window on a stream of a device, which a test simulates: it waits for its own steps only."""

import gc
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

import pytest
import torch

from pytest_dnnbench.powercap import PackageEnergy
from pytest_dnnbench.rank.timed_window import CpuWindow, StreamWindow, Window, window_for


@dataclass
class Stream:
    """A stream of which a test says how long the queued work takes; the host only queues."""

    queued_s: float = 100.0
    waited_for: list[float] = field(default_factory=list)

    def work(self, seconds: float) -> None:
        self.queued_s += seconds

    def mark(self) -> float:
        return self.queued_s

    def reach(self, mark: float) -> None:
        self.waited_for.append(mark)

    def settle(self) -> None:
        raise AssertionError("the whole device is never waited for: it has other streams")

    def seconds(self, start: float, end: float) -> float:
        return end - start


class Memory:
    """An allocator whose peak is the number of resets."""

    resets = 0

    def reset(self) -> None:
        self.resets += 1

    def peaks(self) -> dict[str, float]:
        return {"allocated_peak_bytes": float(self.resets)}


def test_a_window_ends_with_its_last_step_whatever_is_queued_after_it() -> None:
    stream = Stream()
    window = StreamWindow(stream, Memory())
    stream.work(7.0)  # warm-up that the host has queued and the device has not done
    window.open()
    assert stream.waited_for == [107.0]
    stream.work(1.0)
    window.mark()
    stream.work(2.0)
    window.mark()
    stream.work(50.0)  # the first step of the run-on
    timing = window.close()
    assert [end - timing.start_s for end in timing.step_ends_s] == pytest.approx([1.0, 3.0])
    assert timing.end_s == timing.step_ends_s[-1]
    assert stream.waited_for == [107.0, 110.0], "not for the run-on"
    assert timing.peaks == {"allocated_peak_bytes": 1.0}


def test_a_window_without_a_step_ends_with_what_is_queued() -> None:
    stream = Stream()
    window = StreamWindow(stream, Memory())
    window.open()
    stream.work(4.0)
    timing = window.close()
    assert timing.end_s - timing.start_s == pytest.approx(4.0)
    assert not timing.step_ends_s


def test_the_hosts_clock_is_read_before_and_after_the_window() -> None:
    window, begin_s = window_for(torch.device("cpu")), monotonic()
    assert isinstance(window, CpuWindow)
    window.begin()
    window.open()
    window.mark()
    timing = window.close()
    first_s, last_s = timing.clock_s
    times_s = [begin_s, first_s, timing.start_s, *timing.step_ends_s, timing.end_s, last_s]
    assert times_s == sorted(times_s)


def test_a_window_closes_at_its_last_step_even_if_the_rank_loses_its_core_then() -> None:
    """Launches of milliseconds were refused, for their steps did not add up to their window."""
    window = CpuWindow()
    window.open()
    window.mark()
    sleep(0.02)
    timing = window.close()
    assert timing.end_s == timing.step_ends_s[-1]
    assert timing.clock_s[1] >= timing.end_s + 0.02


@pytest.mark.parametrize("window", [CpuWindow(), StreamWindow(Stream(), Memory())])
def test_no_garbage_is_collected_from_the_begin_of_the_run_to_the_close(window: Window) -> None:
    assert gc.isenabled()
    window.begin()
    assert not gc.isenabled()
    window.open()
    window.mark()
    assert not gc.isenabled()
    window.close()
    assert gc.isenabled()
    gc.disable()
    try:
        window.begin()
        window.open()
        window.close()
        assert not gc.isenabled(), "who switched it off keeps it off"
    finally:
        gc.enable()


def test_the_one_rank_that_is_asked_reads_the_packages_energy(tmp_path: Path) -> None:
    (tmp_path / "intel-rapl:0").mkdir()
    counter = tmp_path / "intel-rapl:0" / "energy_uj"
    counter.write_text("1000000")
    window = CpuWindow(PackageEnergy(tmp_path))
    window.begin()
    counter.write_text("2000000")  # before the window opens
    window.open()
    counter.write_text("3500000")
    window.mark()
    assert window.close().cpu_energy_j == pytest.approx(1.5)
    assert CpuWindow()._energy is None
