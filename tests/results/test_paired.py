"""Statistics of pairs: the looks, false alarms and coverage over all looks together, power, the
guards. `benchmarks/against.py` is the same at full size."""

import math

import numpy as np
import pytest

from benchmarks.against import WORLDS, Setting, try_out
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.metrics import METRICS
from pytest_dnnbench.results.records.measurement import Figures
from pytest_dnnbench.results.statistics.noise import Prior
from pytest_dnnbench.results.statistics.paired import (
    FIRST_LOOK,
    decide_pairs,
    looks,
    mean_change,
    pair_prior,
    signs_agree,
)
from pytest_dnnbench.results.verdicts.side_by_side import (
    NOT_OF_A_PAIR,
    Compared,
    Questions,
    against_limits,
    compared_metrics,
    no_ratio,
    ratios_of,
)

NOTHING_ASSUMED = Prior(0.0, 0.0)


@pytest.mark.parametrize("most", [FIRST_LOOK, 9, 16, 33, 100, 1000])
def test_the_looks_share_the_whole_false_alarm_rate_and_end_with_the_last_round(most: int) -> None:
    planned = looks(most)
    assert math.fsum(look.share for look in planned) == pytest.approx(1.0)
    assert all(look.share > 0 for look in planned)
    assert planned[0].rounds == FIRST_LOOK
    assert planned[-1].rounds == most
    assert all(look.rounds % 2 == 0 for look in planned[:-1])


def test_a_decision_is_students_t_of_the_logarithms() -> None:
    from scipy import stats

    logs = np.array([0.031, 0.028, 0.035, 0.022, 0.030, 0.041, 0.027, 0.033])
    decision = decide_pairs(np.exp(logs).tolist(), prior=NOTHING_ASSUMED, alpha=0.01, share=0.4)
    whole = stats.ttest_1samp(logs, 0.0).confidence_interval(1 - 0.05 * 0.4)
    assert decision.interval == pytest.approx((math.expm1(whole.low), math.expm1(whole.high)))
    assert decision.change == pytest.approx(math.expm1(logs.mean()))
    error = logs.std(ddof=1) / math.sqrt(8)
    reach = stats.t.ppf(1 - 0.01 * 0.4 / 2, 7) * error
    assert decision.status == "higher"
    assert decision.detectable == pytest.approx(math.expm1(reach + stats.t.ppf(0.95, 7) * error))


def test_other_cases_may_say_that_pairs_vary_more_and_never_that_they_vary_less() -> None:
    rng = np.random.default_rng(0)
    cases = [np.exp(0.01 * rng.standard_normal(8)).tolist() for _ in range(30)]
    prior = pair_prior(cases)
    assert prior.launch_sd == pytest.approx(0.01, rel=0.2)
    lucky = [1.03, 1.0301, 1.0299, 1.03, 1.0302, 1.03, 1.0298, 1.03]
    alone = decide_pairs(lucky, prior=NOTHING_ASSUMED, alpha=0.001, share=1.0)
    beside = decide_pairs(lucky, prior=prior, alpha=0.001, share=1.0)
    assert beside.detectable > 10 * alone.detectable
    noisy = np.exp(0.1 * rng.standard_normal(8)).tolist()
    beside = decide_pairs(noisy, prior=prior, alpha=0.001, share=1.0)
    spread = np.std(np.log(noisy), ddof=1) / math.sqrt(8)
    assert math.log1p(beside.interval[1]) - math.log1p(beside.change) > 1.9 * spread


def test_two_of_eight_pairs_that_say_the_opposite_prevent_a_call() -> None:
    assert signs_agree([1.0] * 7 + [-1.0], 1.0)
    assert not signs_agree([1.0] * 6 + [-1.0] * 2, 1.0)
    assert not signs_agree([0.0] * 8, 0.0)


def test_figures_that_are_alike_to_the_last_digit_are_no_difference() -> None:
    decision = decide_pairs([1.0] * 8, prior=NOTHING_ASSUMED, alpha=0.001, share=1.0)
    assert (decision.status, decision.change) == ("no evidence", 0.0)
    assert decision.detectable == pytest.approx(1e-4, rel=1e-3)
    moved = decide_pairs([1.001] * 8, prior=NOTHING_ASSUMED, alpha=0.001, share=1.0)
    assert moved.status == "higher"


@pytest.mark.parametrize("world", WORLDS)
def test_at_most_one_session_in_a_hundred_calls_a_difference_between_equal_sides(
    world: str,
) -> None:
    """Of 150 sessions of 36 cases; at a true rate of 1%, more than five of them have probability
    0.4%. At full size the rates are below 1%."""
    tally = try_out(Setting(world), sessions=150, seed=1)
    assert tally.alarmed <= 5


def test_three_percent_are_found_under_one_percent_of_noise_and_measuring_ends_early() -> None:
    tally = try_out(Setting("normal", slowdown=0.03), sessions=10, seed=2)
    assert tally.called >= 0.95 * tally.cases
    assert tally.rounds < 12 * tally.cases
    assert tally.wrong_sign == 0


def test_the_interval_holds_where_measuring_ended() -> None:
    """95% of cases at least, whenever each of them ended."""
    tally = try_out(Setting("normal", slowdown=0.02), sessions=30, seed=3)
    assert tally.covered >= 0.95 * tally.cases


def test_drift_cancels_in_pairs_and_hides_the_difference_from_stored_sessions() -> None:
    drifting = try_out(Setting("drift", slowdown=0.03, with_stored=True), sessions=10, seed=4)
    assert drifting.called >= 0.9 * drifting.cases
    assert drifting.stored_called <= 0.5 * drifting.cases


def test_a_case_is_settled_by_what_was_asked() -> None:
    rng = np.random.default_rng(5)

    def asked(change: float, compared: Compared, noise: float) -> bool:
        questions = Questions(1, {"throughput": compared}, 16, 0.01)
        ratios = np.exp(math.log1p(change) + noise * rng.standard_normal(8)).tolist()
        planned = questions.planned(8)
        assert planned is not None
        questions.look(planned, {"case": {"throughput": ratios}})
        return questions.is_settled("case")

    assert asked(-0.10, Compared(0.03), 0.005), "a difference, and nobody asked how large"
    assert not asked(-0.10, Compared(0.10, -0.10), 0.02), "within the limit or beyond it?"
    assert asked(-0.20, Compared(0.10, -0.10), 0.005)
    assert asked(0.0, Compared(0.03), 0.002), "3% would have been found"
    assert not asked(0.0, Compared(0.03), 0.03)


def test_a_call_stands_while_another_metric_of_the_case_is_open() -> None:
    questions = Questions(
        1, {"throughput": Compared(0.03), "step_time_s": Compared(1e-9)}, 16, 0.01
    )
    rng = np.random.default_rng(6)
    time = np.exp(0.02 * rng.standard_normal(16)).tolist()
    for rounds, later in ((8, 1.0), (12, 1.0), (16, 1.5)):
        speed = [0.9, 0.901] * 4 + [later, 1 / later] * 4
        planned = questions.planned(rounds)
        assert planned is not None
        questions.look(planned, {"case": {"throughput": speed, "step_time_s": time}})
    assert questions.decisions["case"]["throughput"].status == "lower"
    assert questions.looked == [8, 12, 16]


def test_a_look_that_settles_a_case_decides_all_of_its_metrics() -> None:
    """The second metric, settled already, was left at the eight pairs of the look before."""
    questions = Questions(
        1, {"throughput": Compared(0.03), "step_time_s": Compared(0.03)}, 16, 0.01
    )
    alike, far_apart, slower = [1.0001, 0.9999], [0.8, 1.25], [0.9, 0.901]
    for rounds, speed in ((8, far_apart), (12, slower), (16, slower)):
        planned = questions.planned(rounds)
        assert planned is not None
        ratios = {"throughput": speed * (rounds // 2), "step_time_s": alike * (rounds // 2)}
        questions.look(planned, {"case": ratios})
        assert questions.is_settled("case") == (rounds > 8)
    pairs = {name: decision.pairs for name, decision in questions.decisions["case"].items()}
    assert pairs == {"throughput": 12, "step_time_s": 12}


def test_a_case_that_is_measured_later_is_decided_alone() -> None:
    questions = Questions(2, {"throughput": Compared(0.03)}, 16, 0.01)
    planned = questions.planned(8)
    assert planned is not None
    far_apart, slower = [0.8, 1.25] * 4, [0.9, 0.901] * 4
    questions.look(planned, {"in turn": {"throughput": far_apart}})
    before = questions.decisions["in turn"]["throughput"]
    both = {"in turn": {"throughput": far_apart}, "later": {"throughput": slower}}
    questions.look(planned, both, alone="later")
    assert questions.decisions["in turn"]["throughput"] is before, "it has had this look"
    assert questions.decisions["later"]["throughput"].status == "lower"
    assert questions.decisions["later"]["throughput"].pairs == 8
    assert questions.looked == [8]


def test_the_mean_over_cases_is_geometric() -> None:
    mean = mean_change([(0.1, (0.09, 0.11)), (1 / 1.1 - 1, (1 / 1.11 - 1, 1 / 1.09 - 1))])
    assert mean.change == pytest.approx(0.0, abs=1e-12)
    low, high = mean.interval
    half = math.log(1.11 / 1.09) / 2 / math.sqrt(2)
    assert (math.log1p(low), math.log1p(high)) == pytest.approx((-half, half))


def test_limits_of_the_other_side_are_changes() -> None:
    limits = against_limits(["throughput=-2%", "step_time_s=off"], "--dnn-against-limits")
    compared = compared_metrics("cpu", limits)
    assert compared["throughput"] == Compared(0.02, -0.02)
    assert "step_time_s" not in compared
    assert compared["resident_peak_bytes"].limit is None
    assert "allocated_peak_bytes" not in compared
    with pytest.raises(UsageError, match="give the bound to --dnn-limits"):
        against_limits(["throughput>=3000"], "--dnn-against-limits")


@pytest.mark.parametrize("metric", NOT_OF_A_PAIR)
def test_a_limit_that_no_pair_can_be_held_to_is_refused(metric: str) -> None:
    sign = "-" if METRICS[metric].better == "higher" else "+"
    with pytest.raises(UsageError, match=f"{metric} cannot be compared: it|{metric} .*: most"):
        against_limits([f"{metric}={sign}3%"], "--dnn-against-limits")
    assert against_limits([f"{metric}=off"], "")[metric].off


def test_a_limit_on_a_metric_that_the_device_has_not_is_kept_to_be_told_of() -> None:
    limits = against_limits(["allocated_peak_bytes=+1%"], "--dnn-against-limits")
    assert compared_metrics("cpu", limits)["allocated_peak_bytes"] == Compared(0.01, 0.01)


def test_pairs_within_the_granularity_of_a_metric_are_alike() -> None:
    """Peaks of a device allocator, which come in segments."""
    granule = METRICS["allocated_peak_bytes"].granularity
    assert granule > 0
    a, far = [1e9, 1e9], 1e9 + 2 * granule
    ratios = ratios_of(
        {"allocated_peak_bytes": Figures(a, []), "throughput": Figures([100.0, 100.0], [])},
        {"allocated_peak_bytes": Figures([1e9 + granule, far], []), "speedup": Figures([1.0], [])},
    )
    assert ratios == {"allocated_peak_bytes": [1.0, far / 1e9]}


def test_a_metric_without_a_ratio_says_why() -> None:
    """It was dropped without a word where one figure of one launch was zero."""
    a = {"throughput": Figures([1.0, 0.0], []), "step_time_s": Figures([1.0, 1.0], [])}
    b = {
        "throughput": Figures([1.0, 1.0], []),
        "step_time_s": Figures([1.0, -1.0, 5.0], []),
        "speedup": Figures([1.0], []),
    }
    assert ratios_of(a, b) == {}
    assert no_ratio("throughput", a, b) == "a launch of side A has 0, of which there is no ratio"
    assert no_ratio("step_time_s", a, b) == "a launch of side B has -1, of which there is no ratio"
    assert no_ratio("speedup", a, b) == "side A has no figure of it"
    assert no_ratio("throughput", b, b) == ""
