"""The anchor that a user names: which sessions it is, and what leaves it. benchmarks/decline.py has
the false alarms and the power."""

import random
from pathlib import Path

import pytest

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.results.baselines.anchor_source import load_anchor
from pytest_dnnbench.results.baselines.case_baseline import CaseBaseline, NoBaseline
from pytest_dnnbench.results.baselines.comparability import facts_of
from pytest_dnnbench.results.baselines.limits import Limit
from pytest_dnnbench.results.records.launches import Launches
from pytest_dnnbench.results.statistics.anchor import Anchor
from pytest_dnnbench.results.verdicts.judge import Judged, judge
from tests.results.synthetic import NAME, elsewhere, judged, record, save

THROUGHPUT = "throughput"
WHO = {"who": "a@b", "when": "2026-01-01", "why": "right"}


def history(folder: Path, levels: list[float]) -> Path:
    for number, level in enumerate(levels, 1):
        save(folder / f"{number:04}_n.json", {NAME: record(level, seed=number)})
    return folder


def files_of(folder: Path, source: str = "first") -> CaseBaseline:
    anchor = load_anchor(source, folder).of(NAME, facts_of(record()))
    assert isinstance(anchor, CaseBaseline)
    return anchor


def test_the_first_sessions_stay_the_anchor_however_many_follow(tmp_path: Path) -> None:
    first = files_of(history(tmp_path, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]))
    assert (first.file, first.sessions) == ("0001_n.json", 5)
    middles = [round(sorted(each)[1] / 3000, 1) for each in first.history[THROUGHPUT]]
    assert middles == [1.0, 0.9, 0.8, 0.7, 0.6]


def test_sessions_that_cannot_be_a_baseline_are_no_anchor_either(tmp_path: Path) -> None:
    save(tmp_path / "0001_n.json", interrupted=True)
    save(tmp_path / "0002_n.json", {NAME: judged(record(), "regressed")})
    save(tmp_path / "0003_n.json", {NAME: elsewhere(record(), torch="2.12.0")})
    (tmp_path / "0004_n.json").write_text("{")
    save(tmp_path / "0005_n.json")
    anchor = files_of(tmp_path)
    assert (anchor.file, anchor.sessions) == ("0005_n.json", 1)


def test_an_accepted_session_begins_a_new_anchor(tmp_path: Path) -> None:
    history(tmp_path, [1.0] * 4)
    save(tmp_path / "0005_n.json", {NAME: record(0.9)}, failed=["x"], accepted=WHO)
    save(tmp_path / "0006_n.json", {NAME: record(0.9)})
    anchor = files_of(tmp_path)
    assert (anchor.file, anchor.sessions) == ("0005_n.json", 2)


def test_a_number_a_name_and_a_file_are_anchors_and_latest_is_not(tmp_path: Path) -> None:
    history(tmp_path, [1.0] * 3)
    assert files_of(tmp_path, "2").file == "0002_n.json"
    assert files_of(tmp_path, str(tmp_path / "0001_n.json")).file == "0001_n.json"
    with pytest.raises(UsageError, match="latest moves with every session"):
        load_anchor("latest", tmp_path)
    with pytest.raises(UsageError, match="holds no saved session"):
        load_anchor("first", tmp_path / "absent")
    absent = load_anchor("first", tmp_path).of("other.py::test", facts_of(record()))
    assert isinstance(absent, NoBaseline)


def creeping(step: float, sessions: int, seed: int = 1) -> Judged:
    """The verdict on the last of sessions at 1% of noise, each slower than the one before, beside
    the first five as the anchor."""
    rng = random.Random(seed)
    values = [
        [3000 * (1 - step) ** number * (1 + rng.gauss(0, 0.01)) for _ in range(3)]
        for number in range(sessions)
    ]
    *stored, now = values
    latest = CaseBaseline("0019.json", None, len(stored), {THROUGHPUT: stored[-20:]})
    anchor = CaseBaseline("0001.json", None, 5, {THROUGHPUT: stored[:5]})
    limits = {THROUGHPUT: Limit(relative=-0.03, relative_source="default")}
    baseline = latest.anchored_at(anchor, "first (0001.json)")
    return judge({THROUGHPUT: Launches(tuple(now))}, baseline, limits, 0.01 / 36)


def test_half_a_percent_a_session_over_twenty_is_called_against_the_anchor() -> None:
    called = [creeping(0.005, 20, seed).verdict.metrics[THROUGHPUT] for seed in range(12)]
    assert sum(verdict.status == "regressed" for verdict in called) >= 11
    worst = next(verdict for verdict in called if verdict.status == "regressed")
    assert worst.since == (
        "compared with the anchor first (0001.json) (5 sessions), not with the latest ones"
    )


def test_sessions_that_stay_are_not_called() -> None:
    called = [creeping(0.0, 20, seed).verdict.metrics[THROUGHPUT] for seed in range(50)]
    assert not any(verdict.status == "regressed" for verdict in called)


def test_the_error_is_that_of_sessions_around_a_level_and_a_creep_does_not_widen_it() -> None:
    rng = random.Random(4)
    noisy = [[100 * (1 + rng.gauss(0, 0.01))] * 3 for _ in range(400)]
    creeping = [[value * 0.999**number for value in each] for number, each in enumerate(noisy)]
    # One session against the median of five: sqrt(1 + 0.287) of 1% each.
    for sessions in (noisy, creeping):
        error = Anchor(sessions[:5], sessions, 0, "first").precision.error
        assert error == pytest.approx(0.01 * 1.287**0.5, rel=0.1)
