"""The launches of a session, from the noise of stored ones."""

from pathlib import Path

import pytest

from pytest_dnnbench.results.baselines.case_baseline import CaseBaseline
from pytest_dnnbench.results.baselines.golden import Golden
from pytest_dnnbench.results.baselines.golden_file import read_golden, write_golden
from pytest_dnnbench.results.baselines.golden_update import update_golden
from pytest_dnnbench.results.baselines.limits import Limit, parse_limits
from pytest_dnnbench.results.baselines.stored_sessions import storage_runs
from pytest_dnnbench.results.records.launches import Launches
from pytest_dnnbench.results.records.saved import read_saved
from pytest_dnnbench.results.statistics.noise import learn
from pytest_dnnbench.results.verdicts.calibration import noise_summary
from pytest_dnnbench.results.verdicts.judge import judge
from pytest_dnnbench.results.verdicts.launch_plan import (
    METRIC,
    LaunchPlan,
    plan_launches,
    plans_of,
)
from tests.results.synthetic import NAME, disturbed, record, save


def stored(folder: Path, noise: float, sessions: int = 10) -> Path:
    folder.mkdir()
    for number in range(1, sessions + 1):
        save(folder / f"{number:04}_nightly.json", {NAME: record(noise=noise, seed=number)})
    return folder


def plan(folder: Path, effect: float = 0.05, limit: str = "-3%") -> LaunchPlan:
    layers = [parse_limits({"throughput": limit}, "a test")]
    return plan_launches(
        effect,
        storage_runs(folder, "latest"),
        {NAME: layers},
        false_alarms=0.01,
        at_least=2,
        device="cpu",
    )


def test_noisier_cases_and_smaller_effects_take_more_launches(tmp_path: Path) -> None:
    calm, noisy = stored(tmp_path / "calm", 0.002), stored(tmp_path / "noisy", 0.01)
    assert plan(calm) == LaunchPlan(0.05, 3, {NAME: 3})
    assert plan(noisy).launches > 3
    assert plan(noisy, effect=0.08).launches < plan(noisy).launches


@pytest.mark.parametrize(("noise", "effect"), [(0.1, 0.05), (0.002, 0.03)])
def test_a_case_in_which_none_would_do_is_named(
    tmp_path: Path, noise: float, effect: float
) -> None:
    made = plan(stored(tmp_path / "s", noise), effect)
    assert (made, made.beyond) == (LaunchPlan(effect, 2, {NAME: None}), (NAME,))


def test_a_calibration_promises_what_the_verdict_will_detect() -> None:
    """It promised a little more: the look at the first sessions has a share of the false alarms."""
    history = [[100.0 * (1 + 0.05 * (k - 1)) * (1 + 0.04 * n) for k in range(3)] for n in range(6)]
    noise, limit = learn(history), Limit(relative=-0.03)
    stored = CaseBaseline("b.json", None, 6, {METRIC: history}, noise={METRIC: noise})
    session = [100.0, 105.0, 110.0]
    judged = judge({METRIC: Launches(tuple(session))}, stored, {METRIC: limit}, alpha=0.01)
    promised = judged.verdict.metrics[METRIC].minimum_detectable
    text = noise_summary(METRIC, session, history, noise, limit, false_alarms=0.01, tests=1)
    assert f"detects {promised:.1%} with 3 launches" in text


def test_one_stored_session_promises_nothing(tmp_path: Path) -> None:
    assert plan(stored(tmp_path / "s", 0.005, sessions=1)).beyond == (NAME,)


def test_a_case_without_a_baseline_or_a_limit_needs_none(tmp_path: Path) -> None:
    folder = stored(tmp_path / "s", 0.002)
    assert plan(folder, limit="off") == LaunchPlan(0.05, 2, {})
    baseline = storage_runs(folder, "latest")
    other = plan_launches(
        0.05, baseline, {"other": []}, false_alarms=0.01, at_least=4, device="cpu"
    )
    assert other == LaunchPlan(0.05, 4, {})


def test_a_case_of_which_every_launch_was_disturbed_cannot_be_planned_for(tmp_path: Path) -> None:
    busy = disturbed(record(), "other processes used 1.0 of 2 cores", 0, 1, 2)
    (tmp_path / "s").mkdir()
    save(tmp_path / "s" / "0001_nightly.json", {NAME: busy})
    assert plan(tmp_path / "s").beyond == (NAME,)


def test_a_plan_is_one_sentence_and_is_read_back_from_the_records() -> None:
    made = LaunchPlan(0.03, 7, {"a": 7, "b": None})
    planned, _, beyond = str(made).partition("; ")
    assert planned == "7 launches: the fewest that detect a 3% change of throughput in 1 case"
    assert beyond.startswith("no number up to 20 detects it in b: sessions differ too much")
    with_plan, without = record(), record()
    with_plan.launch_plan = made.entry("a")
    [read] = plans_of([with_plan, without])
    assert read == LaunchPlan(0.03, 7, {"ddp-resnet18-2gpu (train)": 7})
    with_plan.launch_plan = made.entry("new")
    assert plans_of([with_plan]) == [LaunchPlan(0.03, 7, {})]
    assert "nothing is stored of these cases" in str(LaunchPlan(0.05, 3, {}))


def test_a_golden_file_plans_as_the_sessions_in_it(tmp_path: Path) -> None:
    golden = Golden(tmp_path / "golden.json")
    for path in sorted(stored(tmp_path / "s", 0.002).iterdir()):
        update_golden(golden, read_saved(path))
    write_golden(golden)
    golden = read_golden(golden.path)
    made = plan_launches(0.05, golden, {NAME: []}, false_alarms=0.01, at_least=1, device="cpu")
    assert made.launches == 3
