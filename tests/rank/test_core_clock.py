"""The clock that stands still while a thread waits for a core."""

import time
from pathlib import Path

import pytest

from pytest_dnnbench.rank.core_clock import seconds_beside_waiting


def test_waiting_for_a_core_is_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schedstat = tmp_path / "schedstat"
    monkeypatch.setattr(time, "perf_counter", iter([10.0, 12.0]).__next__)
    schedstat.write_text("5000000000 1000000000 7\n")
    start = seconds_beside_waiting(schedstat)
    schedstat.write_text("5500000000 2500000000 9\n")
    assert seconds_beside_waiting(schedstat) - start == 0.5  # 1.5 of the 2 seconds were waiting


def test_a_wait_while_the_clock_is_read_is_on_no_wrong_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start of after the wait, with a count of before it, made a span negative."""
    schedstat = tmp_path / "schedstat"
    schedstat.write_text("0 0 1\n")
    times = iter([10.0, 10.5])

    def interrupted() -> float:
        schedstat.write_text("0 400000000 2\n")
        return next(times)

    monkeypatch.setattr(time, "perf_counter", interrupted)
    assert seconds_beside_waiting(schedstat) == 10.5 - 0.4


@pytest.mark.parametrize("content", ["", "0\n", "1 2 x\n"])
def test_a_kernel_that_does_not_tell_leaves_the_plain_clock(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: 10.0)
    schedstat = tmp_path / "schedstat"
    assert seconds_beside_waiting(schedstat) == 10.0
    schedstat.write_text(content)
    assert seconds_beside_waiting(schedstat) == 10.0


def test_a_sleep_is_time() -> None:
    start = seconds_beside_waiting()
    time.sleep(0.05)
    assert seconds_beside_waiting() - start >= 0.045
