"""What the ranks of a case have to agree upon."""

import pytest

from pytest_dnnbench.case import Case
from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.messages import Correctness
from pytest_dnnbench.results.records.rank_agreement import agree, same_model
from pytest_dnnbench.results.records.schema import CorrectnessEntry
from tests.results.test_measurement import report


def test_ranks_that_differ_in_a_bit_are_no_result() -> None:
    case = Case("ddp", "m", 2, "train")
    right = Correctness({"parameters": 0.0}, {"parameters": 1e-9}, about={"digest": "a", "seed": 1})
    other = Correctness({}, {}, about={"digest": "b"})
    assert agree(case, [right, right]) == CorrectnessEntry(
        checked=["parameters"],
        largest_deviation={"parameters": 0.0},
        tolerance={"parameters": 1e-9},
        ranks_agree="bit for bit",
        about={"seed": 1},
    )
    with pytest.raises(WrongResult, match="rank 1 holds other values than rank 0"):
        agree(case, [right, other])


def test_ranks_that_hold_the_same_weights_have_trained_the_same_model() -> None:
    case = Case("ddp", "m", 3, "train")
    same_model(case, [report(rank, [1.0], fingerprint="a") for rank in range(3)])


@pytest.mark.parametrize(
    ("fingerprints", "culprit"),
    [("aba", "rank 1 of 3"), ("baa", "rank 0 of 3"), ("ab", "rank 1 of 2")],
)
def test_a_rank_that_holds_other_weights_than_most_is_named(
    fingerprints: str, culprit: str
) -> None:
    reports = [report(rank, [1.0], fingerprint=mark) for rank, mark in enumerate(fingerprints)]
    with pytest.raises(WrongResult, match=f"{culprit} holds another model"):
        same_model(Case("ddp", "m", len(fingerprints), "train"), reports)


def test_failures_of_every_rank_are_shown_before_all_of_one() -> None:
    """Ranks follow different parts of a proof: rank 0's failures once hid all of rank 1's."""
    ranks = [
        Correctness({}, {}, tuple(f"{part} {number}" for number in range(count)))
        for part, count in (("float64", 7), ("timed types", 2), ("none", 0))
    ]
    with pytest.raises(WrongResult) as caught:
        agree(Case("ddp", "m", 3, "train"), ranks)
    _, _, shown = str(caught.value).partition("so it was not timed: ")
    assert shown.split("; ") == [
        "rank 0: float64 0",
        "rank 1: timed types 0",
        "rank 0: float64 1",
        "rank 1: timed types 1",
        "rank 0: float64 2",
        "rank 0: float64 3",
        "and 3 more",
    ]


def test_the_record_has_the_figures_of_the_rank_that_is_nearest_to_its_own_tolerance() -> None:
    """Half of a narrow tolerance is nearer than a fifth of a wide one, though it deviates less."""
    ranks = [
        Correctness(
            {"gradients": 2e-10, "buffers": 0.0, "loss": 0.0},
            {"gradients": 1e-9, "buffers": 1e-9, "loss": 0.0},
        ),
        Correctness({"gradients": 1e-10, "loss": 0.0}, {"gradients": 2e-10, "loss": 1e-9}),
    ]
    for order in (ranks, ranks[::-1]):
        entry = agree(Case("ddp", "m", 2, "train"), order)
        assert entry.largest_deviation == {"gradients": 1e-10, "buffers": 0.0, "loss": 0.0}
        assert entry.tolerance == {"gradients": 2e-10, "buffers": 1e-9, "loss": 1e-9}
        assert entry.ranks_agree == "within the tolerance"


@pytest.mark.parametrize(("failures", "last"), [(6, "rank 0: wrong 5"), (7, "and 1 more")])
def test_failures_are_counted_from_the_seventh_on(failures: int, last: str) -> None:
    rank = Correctness({}, {}, tuple(f"wrong {number}" for number in range(failures)))
    with pytest.raises(WrongResult) as caught:
        agree(Case("ddp", "m", 1, "train"), [rank])
    assert str(caught.value).rpartition("; ")[2] == last
