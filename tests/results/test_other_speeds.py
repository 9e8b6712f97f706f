"""Sessions in which the machine itself ran at another speed: they hide no later change."""

from pathlib import Path

import pytest

from pytest_dnnbench.results.baselines.case_baseline import CaseBaseline
from pytest_dnnbench.results.baselines.comparability import facts_of
from pytest_dnnbench.results.baselines.golden import Golden
from pytest_dnnbench.results.baselines.golden_update import update_golden
from pytest_dnnbench.results.baselines.limits import Limit
from pytest_dnnbench.results.baselines.stored_sessions import storage_runs
from pytest_dnnbench.results.records.saved import read_saved
from pytest_dnnbench.results.records.schema import Record
from pytest_dnnbench.results.statistics.noise import learn, prior_of
from pytest_dnnbench.results.statistics.other_speeds import other_speeds
from pytest_dnnbench.results.verdicts.judge import judge
from tests.results.synthetic import NAME, record, save, with_metric

USUAL = [2.00, 2.02, 1.99, 2.01, 2.00, 1.98, 2.01, 2.00]
METRIC = "throughput"


@pytest.mark.parametrize(
    ("yardsticks", "expected"),
    [
        (USUAL, []),
        ([*USUAL[:3], 2.26, *USUAL[3:]], [3]),
        ([*USUAL[:3], 1.80, *USUAL[3:]], [3]),
        ([*USUAL[:3], 2.08, *USUAL[3:]], []),  # 4%: the noise that verdicts are about
        ([*USUAL, 2.26], [8]),
        ([*USUAL, 2.26, 2.27], []),  # the machine has another speed from now on
        ([*USUAL[:3], 2.26, *USUAL[3:], 2.26, 2.27], [3]),
        ([2.0, 2.3, 2.0, 2.3, 2.0, 2.3, 2.0, 2.3, 2.0], []),  # its speed varies
        ([*USUAL[:3], 2.26, *USUAL[3:5], 2.4, 2.5, *USUAL[5:]], []),  # too many for exceptions
        ([2.0, 2.0, 2.3, 2.0], []),  # too few to say what is usual
        ([None, *USUAL[:3], None, 2.26, *USUAL[3:]], [5]),
    ],
)
def test_a_session_is_left_out_by_the_machine_where_it_is_an_exception(
    yardsticks: list[float | None], expected: list[int]
) -> None:
    assert list(other_speeds(yardsticks)) == expected


def test_the_difference_is_that_of_the_machines_speed() -> None:
    assert other_speeds([2.0, 2.0, 2.5, 2.0, 2.0, 2.0])[2] == pytest.approx(-0.2)


def measured(seed: int, machine: float = 1.0, level: float = 1.0) -> Record:
    """A case on a machine that is so much slower, of whose speed the case loses the same."""
    made = record(level / machine, seed=seed)
    return with_metric(made, "yardstick_s", [0.002 * machine] * 3)


def nights(folder: Path, slow: int | None) -> Path:
    """Twelve sessions, in one of which the machine was 12% slower."""
    folder.mkdir()
    for night in range(1, 13):
        machine = 1.12 if night == slow else 1.0
        save(folder / f"{night:04}_nightly.json", {NAME: measured(night, machine)})
    return folder


@pytest.mark.parametrize("slow", [None, 5, 12])
def test_one_slow_night_hides_no_later_regression(tmp_path: Path, slow: int | None) -> None:
    """After one, no change below a quarter stood out until it was no longer among the twenty."""
    baseline = storage_runs(nights(tmp_path / "s", slow), "latest")
    now = measured(99, level=0.94)
    stored = baseline.of(NAME, facts_of(now))
    assert isinstance(stored, CaseBaseline)
    verdict = judge(
        {METRIC: now.measured(METRIC)}, stored, {METRIC: Limit(relative=-0.03)}, 1e-4
    ).verdict
    assert verdict.status == "regressed"
    assert len(stored.history["allocated_peak_bytes"]) == 12  # memory does not depend on speed
    if slow is not None:
        assert len(stored.history[METRIC]) == 11
        assert baseline.passed_over == [
            f"{slow:04}_nightly.json: the machine itself was 11% slower than in the other"
            " sessions: times are not used"
        ]


@pytest.mark.parametrize("slow", [None, 5, 12])
def test_nor_does_one_in_a_golden_file(tmp_path: Path, slow: int | None) -> None:
    """It keeps the last ten of the sessions."""
    golden = Golden(tmp_path / "golden.json")
    for path in sorted(nights(tmp_path / "s", slow).iterdir()):
        update_golden(golden, read_saved(path))
    now = measured(99, level=0.94)
    stored = golden.of(NAME, facts_of(now))
    assert isinstance(stored, CaseBaseline)
    verdict = judge(
        {METRIC: now.measured(METRIC)}, stored, {METRIC: Limit(relative=-0.03)}, 1e-4
    ).verdict
    assert verdict.status == "regressed"
    assert len(stored.history["allocated_peak_bytes"]) == 10
    if slow is None:
        assert len(stored.history[METRIC]) == 10
        assert golden.passed_over == []
    else:
        usual = [measured(night).undisturbed(METRIC) for night in range(3, 13) if night != slow]
        assert stored.history[METRIC] == usual
        assert stored.noise[METRIC] == learn(usual, prior_of(METRIC))
        golden.of(NAME, facts_of(now))
        assert golden.passed_over == [
            f"golden.json: session {slow - 2} of 10: the machine itself was 11% slower than in the"
            " other sessions: times are not used"
        ]


def test_a_session_that_is_named_counts_whatever_the_speed(tmp_path: Path) -> None:
    now = measured(99)
    stored = storage_runs(nights(tmp_path / "s", 12), "12").of(NAME, facts_of(now))
    assert isinstance(stored, CaseBaseline)
    assert stored.history[METRIC] == [measured(12, 1.12).undisturbed(METRIC)]
