"""No figure that misleads: what launches, verdicts and comparisons may claim."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from pytest_dnnbench.__main__ import main
from pytest_dnnbench.errors import DataError, UsageError
from pytest_dnnbench.results.baselines.baseline_source import read_baseline
from pytest_dnnbench.results.baselines.case_baseline import CaseBaseline
from pytest_dnnbench.results.baselines.golden_file import read_golden
from pytest_dnnbench.results.baselines.limits import Limit, default_limit
from pytest_dnnbench.results.baselines.stored_sessions import storage_runs
from pytest_dnnbench.results.records.launches import Launches, launches_of
from pytest_dnnbench.results.records.record import metric_entry
from pytest_dnnbench.results.records.saved import read_saved
from pytest_dnnbench.results.records.schema import Environment
from pytest_dnnbench.results.records.speed_up import relate
from pytest_dnnbench.results.records.verdict import MetricVerdict
from pytest_dnnbench.results.verdicts.compare import SessionComparison, compare
from pytest_dnnbench.results.verdicts.foresight import foresee
from pytest_dnnbench.results.verdicts.judge import judge
from pytest_dnnbench.results.verdicts.text import notes_of
from tests.results.synthetic import NAME, disturbed, file_of, record, save, with_metric

TIME = "throughput"
BUSY = "other processes used 1.0 of 2 cores"


def compared(before: Path, after: Path, **more: Any) -> SessionComparison:
    return compare(read_baseline(before), read_saved(after), layers=[], false_alarms=0.01, **more)


# Disturbed launches


def test_a_figure_is_the_median_of_the_undisturbed_launches_and_there_is_none_of_too_few() -> None:
    reasons = [None, None, BUSY, BUSY, BUSY]
    few = launches_of(TIME, [2319.0, 2464.0, 102.0, 117.0, 28.0], reasons)
    assert few.figure is None
    assert few.doubt == f"3 of 5 launches disturbed ({BUSY})"
    assert few.ends == (28.0, 2464.0)
    assert few.middle == pytest.approx(2391.5)
    enough = launches_of(TIME, [2319.0, 2464.0, 102.0, 117.0], reasons[:4])
    assert enough.figure == pytest.approx(2391.5)
    assert enough.doubt is None


def test_the_value_of_a_record_and_its_speed_up_leave_disturbed_launches_out() -> None:
    reasons = [None, None, BUSY]
    single = record(framework="single", gpus=1)
    ddp = record()
    for made, rates in ((single, [2319.0, 2464.0, 102.0]), (ddp, [1434.0, 1440.0, 1430.0])):
        made.metrics[TIME] = metric_entry(TIME, rates, sample="img", reasons=reasons)
    disturbed(single, BUSY, 2)
    relate([single, ddp])
    assert single.metrics[TIME].value == pytest.approx(2391.5)
    assert ddp.metrics["speedup"].value == pytest.approx((1434 / 2319 + 1440 / 2464) / 2)


# What a verdict says


def test_an_improvement_beyond_belief_is_called_with_a_warning() -> None:
    rates = [11047.0, 11050.0, 11040.0]
    baseline = CaseBaseline("a.json", None, 3, {TIME: [rates] * 3})
    limit = {TIME: default_limit(TIME) or Limit()}

    def verdict(factor: float) -> MetricVerdict:
        now = {TIME: Launches(tuple(factor * rate for rate in rates))}
        return judge(now, baseline, limit, 1e-4).verdict.metrics[TIME]

    assert verdict(1.9).warning is None
    absurd = verdict(1289606 / 11047)
    assert absurd.status == "improved"
    assert absurd.warning is not None
    assert "117 times better" in absurd.warning


@pytest.mark.parametrize("rate", [-13309.0, 0.0])
def test_a_record_of_a_figure_that_cannot_be_is_refused(rate: float, tmp_path: Path) -> None:
    bad = with_metric(record(), TIME, [3000.0, rate, 3001.0])
    path = save(tmp_path / "a.json", {NAME: bad})
    with pytest.raises(DataError, match=r"throughput is .*, and it is always above zero"):
        read_saved(path)


def test_a_metric_that_may_be_zero_is_named_as_not_judged() -> None:
    limit = {"bubble_fraction": Limit(relative=0.05, relative_source="a test")}
    baseline = CaseBaseline("a.json", None, 1, {"bubble_fraction": [[0.1, 0.1, 0.1]]})
    verdict = judge({"bubble_fraction": Launches((0.0, 0.1, 0.1))}, baseline, limit, 1e-4).verdict
    assert verdict.metrics == {}
    assert "zero or less" in verdict.unjudged["bubble_fraction"]


def test_a_session_is_not_compared_with_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "a.json")
    assert main(["compare", str(path), str(path)]) == 0
    shown = capsys.readouterr().out
    assert "is not compared with itself" in shown
    assert "noisy" not in shown
    assert main(["compare", str(path), str(path), "--require-baseline"]) == 1
    assert main(["baseline", "update", str(tmp_path / "g.json"), str(path)]) == 0
    assert compared(tmp_path / "g.json", path).counts() == {"incomparable": 1}


def test_a_session_of_disturbed_launches_alone_is_not_compared_with_itself(tmp_path: Path) -> None:
    busy = disturbed(record(), BUSY, *range(len(record().launches)))
    path = save(tmp_path / "a.json", {NAME: busy})
    assert compared(path, path).counts() == {"incomparable": 1}
    later = tmp_path / "b.json"
    later.write_text(path.read_text().replace("2026-01-01T00", "2031-01-01T00"))
    assert compared(path, later).counts() == {"partial": 1}  # memory has no disturbance


@pytest.mark.parametrize("golden", [False, True])
def test_another_host_is_said_in_the_verdict(
    golden: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = record(0.7, seed=2)
    slow.environment = Environment(
        must_match=slow.environment.must_match, recorded={"hostname": "node42", "load_1min": 3.0}
    )
    before, after = save(tmp_path / "a.json"), save(tmp_path / "b.json", {NAME: slow})
    if golden:
        assert main(["baseline", "update", str(tmp_path / "g.json"), str(before)]) == 0
        before = tmp_path / "g.json"
    assert main(["compare", str(before), str(after)]) == 1
    assert "hostname: a -> node42" in capsys.readouterr().out
    assert compared(before, after).verdicts[NAME].elsewhere == ["hostname: a -> node42"]


def test_a_misspelt_fact_to_compare_across_is_refused_with_the_nearest(tmp_path: Path) -> None:
    before = save(tmp_path / "a.json")
    after = save(tmp_path / "b.json", {NAME: record(seed=3)})
    with pytest.raises(UsageError, match=r"no session has a fact 'trch'.*did you mean torch"):
        compared(before, after, across=["trch"])
    compared(before, after, across=["torch", "data"])


# Other people's and damaged files


def beside(path: Path, extra: dict[str, Any], **damage: Any) -> Path:
    """A saved file with a neighbouring benchmark that keeps this."""
    content = file_of({NAME: record()})
    other = copy.deepcopy(content["benchmarks"][0]) | {"fullname": "other", "extra_info": extra}
    content["benchmarks"].append(other | damage)
    path.write_text(json.dumps(content))
    return path


def test_a_nan_of_a_neighbouring_benchmark_is_nobodys_business(tmp_path: Path) -> None:
    path = beside(tmp_path / "a.json", {"accuracy": float("nan")}, stats={"mean": float("inf")})
    assert list(read_saved(path).cases) == [NAME]
    assert main(["compare", str(path), str(path)]) == 0
    assert main(["baseline", "update", str(tmp_path / "g.json"), str(path)]) == 0
    assert main(["baseline", "accept", str(path), "--reason", "right"]) == 0
    assert "NaN" in path.read_text()
    assert read_saved(path).session.accepted is not None


def test_a_nan_of_our_own_is_refused_with_its_line(tmp_path: Path) -> None:
    content = file_of({NAME: record()})
    content["benchmarks"][0]["extra_info"]["dnnbench"]["metrics"][TIME]["value"] = float("nan")
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content, indent=1))
    with pytest.raises(DataError, match=r"line \d+"):
        read_saved(path)


@pytest.mark.parametrize("damage", [b"1e999", b'"2.\xff"', b"9" * 5000, b'"\\ud800"'])
def test_a_damaged_file_among_the_stored_ones_is_passed_over(damage: bytes, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        save(tmp_path / f"{number:04}_n.json", {NAME: record(seed=number)})
    older = tmp_path / "0002_n.json"
    older.write_bytes(older.read_bytes().replace(b'"torch": "2.13.0"', b'"torch": ' + damage))
    runs = storage_runs(tmp_path, "latest")
    case = runs.stored(NAME)
    assert isinstance(case, CaseBaseline)
    assert case.sessions == 2
    [why] = runs.passed_over
    assert "0002_n.json" in why


# A slow decline


def declining(folder: Path, sessions: int, step: float, noise: float = 0.004) -> list[Path]:
    """Saved sessions, each slower than the one before."""
    rng, paths = random.Random(3), []
    for number in range(sessions):
        level = 3000 * (1 - step) ** number
        made = with_metric(record(), TIME, [level * (1 + rng.gauss(0, noise)) for _ in range(3)])
        del made.metrics["step_time_s"]
        paths.append(save(folder / f"{number + 1:04}_n.json", {NAME: made}))
    return paths


def test_a_slow_decline_is_called_against_a_golden_file_that_takes_every_session(
    tmp_path: Path,
) -> None:
    golden, statuses, reasons = tmp_path / "g.json", [], []
    for path in declining(tmp_path, 24, 0.01):
        if golden.exists():
            verdict = compared(golden, path).verdicts[NAME]
            statuses.append(verdict.status)
            reasons.append(verdict.metrics[TIME].since or "")
        assert main(["baseline", "update", str(golden), str(path)]) == 0
    assert set(statuses[13:]) == {"regressed"}
    assert sum("slow decline" in reason for reason in reasons[13:]) > 5
    kept = read_golden(golden).cases[NAME].metrics[TIME]
    assert kept.earlier is not None
    assert len(kept.earlier.first) == 5
    assert kept.earlier.count + len(kept.sessions) == 24


def test_a_slow_decline_is_called_against_a_storage(tmp_path: Path) -> None:
    *stored, last = declining(tmp_path, 16, 0.015)
    now = tmp_path / "now.json"
    last.rename(now)
    comparison = compare(
        storage_runs(tmp_path, "latest"), read_saved(now), layers=[], false_alarms=0.01
    )
    verdict = comparison.verdicts[NAME].metrics[TIME]
    assert verdict.status == "regressed"
    assert verdict.change < -0.15
    assert "last 15 sessions" in (verdict.since or "")
    assert len(stored) == 15


def test_sessions_that_stay_as_they_are_show_no_decline(tmp_path: Path) -> None:
    *_, last = declining(tmp_path, 20, 0.0)
    now = tmp_path / "now.json"
    last.rename(now)
    comparison = compare(
        storage_runs(tmp_path, "latest"), read_saved(now), layers=[], false_alarms=0.01
    )
    assert comparison.verdicts[NAME].status == "ok"


# What can be detected


def test_with_one_stored_session_it_is_said_what_can_be_detected(tmp_path: Path) -> None:
    def said(stored: int) -> str:
        folder = tmp_path / str(stored)
        folder.mkdir(exist_ok=True)
        for number in range(stored):
            save(folder / f"{number + 1:04}_n.json", {NAME: record(seed=number, noise=0.01)})
        runs = storage_runs(folder, "latest")
        return str(foresee(runs, {NAME: []}, launches=3, false_alarms=0.01, device="cuda"))

    assert "1 session is stored" in said(1)
    assert "a slowdown is detected from" in said(1)
    assert "store 5 sessions" in said(1)
    assert "4 sessions are stored" in said(4)
    assert said(5) == "None"


def test_notes_of_an_ok_case_are_empty() -> None:
    rates = [100.0, 100.1, 99.9]
    baseline = CaseBaseline("a.json", None, 5, {TIME: [rates] * 5})
    limit = {TIME: default_limit(TIME) or Limit()}
    assert notes_of(judge({TIME: Launches(tuple(rates))}, baseline, limit, 1e-4).verdict) == []
