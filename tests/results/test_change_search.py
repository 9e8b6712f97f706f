"""The place of a change, by comparisons with noise: the probabilities against a plain enumeration,
what is compared next, and how often simulated searches are right. `benchmarks/find_commit.py` is
the same at full size."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from benchmarks.find_commit import Setting, share, try_out
from pytest_dnnbench.results.statistics import change_search
from pytest_dnnbench.results.statistics.change_search import (
    Candidate,
    Pairs,
    candidates_of,
    most_probable,
    next_comparison,
)

CHANGED = (-0.031, -0.028, -0.035, -0.022, -0.030, -0.041, -0.027, -0.033)
SAME = (0.004, -0.006, 0.001, 0.003, -0.002, 0.005, -0.004, 0.0)
BETWEEN = (-0.016, -0.010, -0.021, -0.012, -0.018, -0.014, -0.020, -0.011)
NOISY = (0.02, -0.05, 0.01, -0.06, 0.04, -0.03, -0.04, 0.0)


def plain(places: list[int], measured: list[Pairs]) -> list[float]:
    """The probability of each step by enumeration: for each place of the change and each
    difference the product of Student's densities, then sums."""
    ends = [log for each in measured if (each.earlier, each.later) == (0, places[-1])
            for log in each.logs]  # fmt: skip
    differences = [np.mean(ends) * (0.25 + 1.5 * k / 120) for k in range(121)]
    weights = []
    for change in range(1, places[-1] + 1):
        total = 0.0
        for difference in differences:
            product = 1.0
            for each in measured:
                mean = difference if each.earlier < change <= each.later else 0.0
                error = np.std(each.logs, ddof=1) / math.sqrt(len(each.logs))
                product *= stats.t.pdf((np.mean(each.logs) - mean) / error, len(each.logs) - 1)
            total += product
        weights.append(total)
    return [sum(weights[before:at]) / sum(weights) for before, at in pairwise(places)]


@pytest.mark.parametrize("places", [[0, 1, 2, 3, 4, 5, 6], [0, 2, 3, 6]])
@pytest.mark.parametrize("logs", [SAME, CHANGED, BETWEEN, NOISY])
def test_the_probabilities_are_those_of_a_plain_enumeration(
    places: list[int], logs: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_search, "LUCK", 0.0)
    monkeypatch.setattr(change_search, "SPOILT", 0.0)
    measured = [Pairs(0, 6, CHANGED), Pairs(0, 3, logs), Pairs(2, 3, NOISY)]
    shares = [each.probability for each in candidates_of(places, measured)]
    assert shares == pytest.approx(plain(places, measured), rel=1e-9)
    assert math.fsum(shares) == pytest.approx(1.0)


def test_at_first_each_place_is_as_probable_as_any_other() -> None:
    at_first = candidates_of([0, 1, 2, 3, 4], [Pairs(0, 4, CHANGED)])
    assert [each.probability for each in at_first] == pytest.approx([0.25] * 4)
    # Places 1 and 2 cannot be measured: the change is at one of three there.
    assert [each.probability for each in candidates_of([0, 3, 4], [Pairs(0, 4, CHANGED)])] == (
        pytest.approx([0.75, 0.25])
    )


def test_comparisons_of_places_that_cannot_be_measured_any_more_count_for_nothing() -> None:
    ends = Pairs(0, 4, CHANGED)
    places = [0, 1, 3, 4]
    assert candidates_of(places, [ends, Pairs(0, 2, SAME)]) == candidates_of(places, [ends])


def test_pairs_of_the_same_places_count_together() -> None:
    twice = [Pairs(0, 4, CHANGED), Pairs(0, 2, NOISY), Pairs(0, 2, SAME)]
    assert candidates_of([*range(5)], twice) == candidates_of(
        [*range(5)], [twice[0], Pairs(0, 2, NOISY + SAME)]
    )


def test_a_place_halfway_between_good_and_bad_is_never_told_however_often_it_is_measured() -> None:
    """Builds of one source differ by something: a figure just on one side of the middle must not
    become certain by repetition."""
    shift = float(np.mean(CHANGED)) * 0.45 - float(np.mean(BETWEEN))
    halfway = tuple(log + shift for log in BETWEEN)
    measured = [Pairs(0, 2, CHANGED), Pairs(0, 1, halfway * 50)]
    assert most_probable(candidates_of([0, 1, 2], measured)).probability < 0.99


def test_the_next_comparison_is_in_the_middle_of_what_is_left() -> None:
    places = [*range(9)]
    measured = [Pairs(0, 8, CHANGED)]
    assert next_comparison(candidates_of(places, measured), measured, 0.01) == (0, 4)
    measured.append(Pairs(0, 4, SAME))
    assert next_comparison(candidates_of(places, measured), measured, 0.01) == (0, 6)
    measured.append(Pairs(0, 6, CHANGED))
    following = next_comparison(candidates_of(places, measured), measured, 0.01)
    assert following in [(0, 5), (4, 5), (5, 6)]


def test_the_search_ends_only_with_a_direct_comparison_of_neighbours() -> None:
    candidates = [Candidate(0, 4, 0.001), Candidate(4, 5, 0.995), Candidate(5, 8, 0.004)]
    around = [Pairs(0, 4, SAME), Pairs(0, 5, CHANGED)]
    assert next_comparison(candidates, around, 0.01) == (4, 5)
    assert next_comparison(candidates, [*around, Pairs(4, 5, CHANGED)], 0.01) is None
    assert next_comparison(candidates, [*around, Pairs(4, 5, CHANGED)], 0.001) is not None


def test_later_evidence_turns_an_earlier_answer_round() -> None:
    places, ends = [*range(9)], Pairs(0, 8, CHANGED)
    wrong = [ends, Pairs(0, 4, CHANGED)]
    assert most_probable(candidates_of(places, wrong)).at <= 4
    # The same places say the opposite three times, as neighbours do.
    turned = [*wrong, Pairs(0, 4, SAME * 3), Pairs(0, 3, SAME), Pairs(0, 5, SAME)]
    assert most_probable(candidates_of(places, turned)).at > 5


@pytest.mark.parametrize("world", ["normal", "heavy", "drift"])
@pytest.mark.parametrize(("change", "commits"), [(-0.03, 16), (-0.02, 16), (0.02, 60)])
def test_simulated_searches_are_right_as_often_as_they_say(
    world: str, change: float, commits: int
) -> None:
    """If a search were wrong with 1%, six of 150 would be with a probability of 0.4%."""
    rng = np.random.default_rng(3)
    tried = [try_out(Setting(world, change, commits), rng) for _ in range(150)]
    differing = [each for each in tried if each.began]
    settled = [each for each in differing if each.settled]
    assert len(differing) > (140 if abs(change) == 0.03 else 90)
    assert share(differing, "settled") > 0.98
    assert sum(not each.right for each in settled) <= 5
    assert share(settled, "covered") > 0.88
    assert share(settled, "sessions") < math.log2(commits) + (2.5 if change == -0.03 else 5)


def test_of_two_changes_one_is_named_with_its_own_size() -> None:
    rng = np.random.default_rng(5)
    tried = [try_out(Setting("normal", -0.03, 30, twice=True), rng) for _ in range(60)]
    settled = [each for each in tried if each.settled]
    assert len(settled) > 40, "places between the two are neither like good nor like bad"
    assert share(settled, "right") > 0.97
    assert share(settled, "covered") > 0.88


def test_one_of_the_two_places_has_always_been_measured() -> None:
    """Of two new ones nobody could say which is to blame for a session that fails. Places 4 to 6
    cannot be measured, so the most probable step lies in the middle of what is left."""
    places, measured = [0, 1, 2, 3, 7, 8, 9, 10, 11], [Pairs(0, 11, CHANGED)]
    candidates = candidates_of(places, measured)
    best = most_probable(candidates)
    assert (best.before, best.at) == (3, 7)
    following = next_comparison(candidates, measured, 0.01)
    assert following is not None
    assert {0, 11} & {*following}
