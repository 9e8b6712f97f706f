"""Faults planted on real ranks: the case that has one fails, for that reason, and its sound
neighbour does not."""

from pathlib import Path

import pytest

from benchmarks.planted_faults import (
    STEADY,
    UNSYNCHRONISED,
    Fault,
    caught,
    prepare,
    session,
    verdicts,
)
from tests.rank.planted_workers import STEP_S_VARIABLE

QUICK = ("--dnn-steps", "4", "--dnn-warmup", "1", "--dnn-timeout", "120")
PLANTED = tuple(
    fault for fault in STEADY if fault.name in ("none", "slower20", "slow-rank", "hoards", "grows")
)


def test_each_fault_fails_its_own_case_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STEP_S_VARIABLE, "0.12")  # longer than what busy cores add to a step
    prepare(tmp_path)
    assert set(session(tmp_path, PLANTED, *QUICK, planted=False).values()) == {None}
    every: tuple[Fault, ...] = (*PLANTED, UNSYNCHRONISED)
    failures = session(tmp_path, every, *QUICK, "--dnn-baseline", "latest", planted=True)
    verdict_of = verdicts(tmp_path)
    assert {
        fault.name: caught(fault, failures[fault.name], verdict_of.get(fault.name))
        for fault in every
    } == {fault.name: True for fault in every}
    slow = failures["slower20"]
    assert slow is not None
    assert "step_time_s" in slow
    assert "measured again in 3 fresh launches: " in slow
    assert "resident_peak_bytes: baseline " in (failures["hoards"] or "")
    assert verdict_of["slower20"]["confirmation"] is not None
