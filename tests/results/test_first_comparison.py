"""First comparisons: with one stored session, a session's own cases say how much sessions
differ."""

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_dnnbench.metrics import YARDSTICK
from pytest_dnnbench.results.baselines.baseline_source import load_baseline
from pytest_dnnbench.results.baselines.case_baseline import CaseBaseline
from pytest_dnnbench.results.records.launches import Launches
from pytest_dnnbench.results.records.saved import read_saved
from pytest_dnnbench.results.records.schema import Record
from pytest_dnnbench.results.records.verdict import MetricVerdict
from pytest_dnnbench.results.statistics.noise import TIME, Prior
from pytest_dnnbench.results.statistics.suite_noise import calmer
from pytest_dnnbench.results.verdicts.compare import compare
from pytest_dnnbench.results.verdicts.first_comparison import (
    at_first_comparison,
    calmer_priors,
    early_of_record,
)
from tests.results.synthetic import NAME, disturbed, record, save, with_metric

CASES = 12
NAMES = [NAME.replace("resnet18", f"model{number}") for number in range(CASES)]
ALIKE = [100.0, 101.0, 99.5]


def verdicts(tmp_path: Path, levels: list[float], sessions: int = 1) -> list[MetricVerdict]:
    """Of throughput, of cases at these levels now, with 1% of noise between launches."""
    (tmp_path / "m").mkdir(exist_ok=True)
    for number in range(1, sessions + 1):
        seeds = range(100 * number, 100 * number + len(levels))
        stored = {
            name: record(noise=0.01, seed=seed) for name, seed in zip(NAMES, seeds, strict=True)
        }
        save(tmp_path / "m" / f"{number:04}_n.json", stored)
    now = save(
        tmp_path / "now.json",
        {
            name: record(level, noise=0.01, seed=seed)
            for seed, (name, level) in enumerate(zip(NAMES, levels, strict=True))
        },
    )
    baseline = load_baseline("latest", tmp_path / "m")
    comparison = compare(baseline, read_saved(now), layers=[], false_alarms=0.01)
    return [each.metrics["throughput"] for each in comparison.verdicts.values()]


def test_a_slower_case_among_calm_ones_is_found_and_they_are_not(tmp_path: Path) -> None:
    slowed = verdicts(tmp_path, [0.8, *[1.0] * (CASES - 1)])
    assert [each.status for each in slowed[:1]] == ["regressed"]
    assert "regressed" not in [each.status for each in slowed[1:]]


def test_cases_that_all_became_slower_say_nothing_of_each_other(tmp_path: Path) -> None:
    """And those that became better do, the more of them the more; of these twelve calm cases some
    six, which halve the chance of large differences."""
    alone, calm = verdicts(tmp_path, [0.8] * CASES)[0], verdicts(tmp_path, [1.0] * CASES)[0]
    assert alone.minimum_detectable > 1.05 * calm.minimum_detectable


def test_cases_that_differ_much_for_the_better_lower_no_limit(tmp_path: Path) -> None:
    restless = verdicts(tmp_path, [0.8, *[1.1, 0.9] * 5, 1.1])[0]
    alone = verdicts(tmp_path, [0.8] * CASES)[0]
    assert restless.minimum_detectable == pytest.approx(alone.minimum_detectable, rel=1e-6)


def pairs(changes: list[float]) -> list[tuple[list[float], list[float]]]:
    return [(ALIKE, [value * (1 + change) for value in ALIKE]) for change in changes]


def chance_of_large(prior: Prior) -> float:
    return sum(chance for ratio, chance in prior.ratios if ratio >= 4)


def test_what_is_better_counts_in_the_direction_of_the_metric() -> None:
    calm_but_slower = pairs([0.002, 0.001, 0.003, *[-0.3, -0.2, -0.25] * 3])
    assert chance_of_large(calmer(TIME, calm_but_slower, "higher")) < chance_of_large(TIME)
    assert calmer(TIME, calm_but_slower, "lower") == TIME, "nine are better, by much"


def test_each_calm_case_that_is_better_lowers_the_chance_and_few_cases_are_too_few() -> None:
    chances = [
        chance_of_large(calmer(TIME, pairs([0.001] * count + [-0.2] * 12), "higher"))
        for count in range(8)
    ]
    assert chances == sorted(chances, reverse=True)
    assert chances[0] == chance_of_large(TIME)
    assert calmer(TIME, pairs([0.001] * 11), "higher") == TIME


def baseline(sessions: int = 1) -> CaseBaseline:
    history = {"throughput": [ALIKE] * sessions, YARDSTICK: [ALIKE] * sessions}
    return CaseBaseline("f", None, sessions, history)


def cases_of(records: list[Record], sessions: int = 1) -> dict[str, Prior]:
    return calmer_priors((baseline(sessions), early_of_record(each)) for each in records)


def calm(number: int) -> Record:
    values = [value * (1 + 0.001 * number) for value in ALIKE]
    return with_metric(with_metric(record(), "throughput", values), YARDSTICK, values)


def test_only_times_of_cases_with_a_single_stored_session_are_judged_otherwise() -> None:
    priors = cases_of([calm(number) for number in range(1, 13)])
    assert [*priors] == ["throughput"]
    assert at_first_comparison(baseline(), priors).prior_of("throughput") == priors["throughput"]
    assert at_first_comparison(baseline(2), priors) == baseline(2)
    assert cases_of([calm(number) for number in range(1, 13)], sessions=2) == {}


def test_launches_of_the_last_round_and_disturbed_ones_do_not_count() -> None:
    expected = cases_of([calm(number) for number in range(1, 13)])
    for spoilt in (2, 0):
        records = []
        for number in range(1, 13):
            each = calm(number)
            launches = [*each.metrics["throughput"].per_launch]
            launches[spoilt] *= 3
            each = with_metric(each, "throughput", launches)
            records.append(each if spoilt == 2 else disturbed(each, "busy", spoilt))
        priors = cases_of(records)
        if spoilt == 2:
            assert priors == expected
        assert chance_of_large(priors["throughput"]) < chance_of_large(TIME)
    only = [disturbed(calm(number), "busy", 0, 1) for number in range(1, 13)]
    assert cases_of(only) == {}


def test_a_case_without_a_logarithm_or_without_a_baseline_is_left_out() -> None:
    early = {"throughput": Launches((0.0, 1.0))}
    assert calmer_priors([(baseline(), early)] * 12) == {}
    without = replace(baseline(), history={})
    assert calmer_priors([(without, {"throughput": Launches((1.0, 1.0))})] * 12) == {}
