"""Faults planted on real ranks: the case that has one fails, for that reason, and its sound
neighbour does not."""

from pathlib import Path
from typing import Any

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

QUICK = ("--dnn-steps", "4", "--dnn-warmup", "1")
PLANTED = tuple(
    fault for fault in STEADY if fault.name in ("none", "slower20", "slow-rank", "hoards", "grows")
)


MOST_SESSIONS = 6
"""A rank that loses its core in its few steps hides which one is slow: then it is measured again,
until it is caught."""


def test_each_fault_fails_its_own_case_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STEP_S_VARIABLE, "0.12")  # longer than what busy cores add to a step
    prepare(tmp_path)
    assert set(session(tmp_path, PLANTED, *QUICK, planted=False).values()) == {None}
    left: tuple[Fault, ...] = (*PLANTED, UNSYNCHRONISED)
    failures: dict[str, str | None] = {}
    verdict_of: dict[str, dict[str, Any]] = {}
    for _ in range(MOST_SESSIONS):
        failures |= session(tmp_path, left, *QUICK, "--dnn-baseline", "0001", planted=True)
        verdict_of |= verdicts(tmp_path)
        assert failures["none"] is None
        left = tuple(
            fault
            for fault in left
            if not caught(fault, failures[fault.name], verdict_of.get(fault.name))
        )
        if not left:
            break
    assert not left, [failures[fault.name] for fault in left]
    slow = failures["slower20"]
    assert slow is not None
    assert "step_time_s" in slow
    assert "measured again in 3 fresh launches: " in slow
    assert "resident_peak_bytes: baseline " in (failures["hoards"] or "")
    assert verdict_of["slower20"]["confirmation"] is not None
