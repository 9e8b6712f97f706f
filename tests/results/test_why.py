"""What is named as a cause, and what is not: breakdowns made by hand."""

import random

import pytest

from pytest_dnnbench.results.records.profile_entry import (
    BreakdownEntry,
    OperatorEntry,
    ProfiledRank,
)
from pytest_dnnbench.results.verdicts.why import explain, unexplained, why_lines
from pytest_dnnbench.step_parts import PARTS, Part

Rows = dict[tuple[Part, str], list[list[float]]]
"""Milliseconds by part and operator, for each launch those of each rank."""


def breakdown(rows: Rows, calls: float = 1.0, left_out: int = 0) -> BreakdownEntry:
    """A breakdown whose parts have these operators and nothing else."""
    launches = next(iter(rows.values()))
    ranks = [
        [_rank(rows, launch, rank) for rank in range(len(launches[0]))]
        for launch in range(len(launches))
    ]
    operators = [
        OperatorEntry(
            part=part,
            name=name,
            self_s=[[ms / 1e3 for ms in launch] for launch in row],
            calls=[calls] * len(launches[0]),
        )
        for (part, name), row in rows.items()
    ]
    return BreakdownEntry(
        seconds={},
        shares={},
        slowdown=1.0,
        parts_over_step=1.0,
        launches=ranks,
        operators=operators,
        left_out=left_out,
    )


def _rank(rows: Rows, launch: int, rank: int) -> ProfiledRank:
    parts = {
        part: sum(row[launch][rank] for (each, _), row in rows.items() if each == part) / 1e3
        for part in PARTS
    }
    return ProfiledRank(steps=5, step_time_s=sum(parts.values()), parts_s=parts)


def alone(*launches: float) -> list[list[float]]:
    """Of a job with one rank."""
    return [[ms] for ms in launches]


def test_the_operator_that_grew_is_named_with_its_share() -> None:
    before = breakdown({("compute", "mm"): alone(4, 4.1), ("compute", "conv"): alone(6, 6.1)})
    now = breakdown({("compute", "mm"): alone(9, 9.1), ("compute", "conv"): alone(6.1, 6)}, 3.0)
    why = explain(before, now)
    assert [(cause.part, cause.name) for cause in why.causes] == [("compute", "mm")]
    assert why.causes[0].share == pytest.approx(1, abs=0.03)
    assert why_lines(why)[1] == (
        "  compute in mm: 5 ms more (4.05 ms to 9.05 ms, 1 to 3 calls), 100% of the difference"
    )


def test_a_part_is_named_where_no_operator_of_it_explains_half() -> None:
    names = [f"op{number}" for number in range(40)]
    before = breakdown({("compute", name): alone(1, 1.001) for name in names})
    now = breakdown({("compute", name): alone(1.5, 1.501) for name in names})
    assert [(cause.part, cause.name) for cause in explain(before, now).causes] == [("compute", "")]


def test_what_the_spread_of_the_launches_explains_is_not_named() -> None:
    before = breakdown({("compute", "mm"): alone(4, 8), ("data", "load"): alone(1, 1.1)})
    now = breakdown({("compute", "mm"): alone(9, 10), ("data", "load"): alone(9, 9.1)})
    assert [cause.part for cause in explain(before, now).causes] == ["data"]


def test_nothing_stands_out() -> None:
    before = breakdown({("compute", "a"): alone(5, 8), ("idle", ""): alone(5, 2)})
    now = breakdown({("compute", "a"): alone(7, 12), ("idle", ""): alone(7, 2)})
    why = explain(before, now)
    assert (why.causes, why.doubt) == ([], "")
    assert "no part of it stands out from the spread" in why_lines(why)[0]


def test_the_rank_that_the_others_wait_for_is_asked() -> None:
    before = breakdown(
        {
            ("compute", "mm"): [[5, 5], [5.1, 5.1]],
            ("communication", "all_reduce"): [[1, 1], [1.1, 1.1]],
        }
    )
    now = breakdown(
        {
            ("compute", "mm"): [[5, 15], [5.1, 15.1]],
            ("communication", "all_reduce"): [[11, 1], [11.1, 1.1]],
        }
    )
    why = explain(before, now)
    assert (why.rank, why.causes[0].part, len(why.causes)) == (1, "compute", 1)


def test_where_all_ranks_wait_longer_the_exchange_is_named_as_the_last_rank_sees_it() -> None:
    before = breakdown(
        {("compute", "mm"): [[5, 6], [5, 6]], ("communication", "all_reduce"): [[2, 1], [2.1, 1.1]]}
    )
    now = breakdown(
        {("compute", "mm"): [[5, 6], [5, 6]], ("communication", "all_reduce"): [[6, 5], [6.1, 5.1]]}
    )
    why = explain(before, now)
    assert (why.rank, why.causes[0].name) == (1, "all_reduce")


@pytest.mark.parametrize(
    ("before", "now", "doubt"),
    [
        (alone(4), alone(9, 9), "the baseline has one profiled launch"),
        (alone(4, 4), alone(9), "the case has one profiled launch"),
        (alone(4, 4), [[9, 9], [9, 9]], "another number of ranks"),
        (alone(4, 9), alone(8, 10), "do not show the difference"),
    ],
)
def test_what_cannot_be_explained_says_so(
    before: list[list[float]], now: list[list[float]], doubt: str
) -> None:
    why = explain(
        breakdown({("compute", "mm"): before}),
        breakdown({("compute", "mm"): now}),
    )
    assert why.causes == []
    assert doubt in why_lines(why)[0]


@pytest.mark.parametrize(
    ("left_out", "fix"),
    [
        (0, "which shows no spread: profile at least 2 launches"),
        (1, "spread: 1 more launch was disturbed and left out; profile more launches, or on an"),
        (2, "2 more launches were disturbed and left out; profile more launches, or on an idle"),
    ],
)
def test_launches_that_were_left_out_as_disturbed_are_named(left_out: int, fix: str) -> None:
    whole = breakdown({("compute", "mm"): alone(4, 4)})
    [line] = why_lines(explain(whole, breakdown({("compute", "mm"): alone(9)}, 1.0, left_out)))
    assert fix in line


def test_an_operator_that_the_baseline_does_not_list_may_have_taken_as_much_as_its_least() -> None:
    listed: Rows = {("compute", f"op{number}"): alone(1, 1.01) for number in range(40)}
    before = breakdown(listed)
    now = breakdown(
        {**listed, ("compute", "copy"): alone(1.02, 1.02), ("compute", "sort"): alone(9, 9.01)}
    )
    [cause] = explain(before, now).causes
    assert cause.name == "sort"
    assert cause.baseline_s == pytest.approx(0.001, rel=0.02)


def test_launches_of_one_and_the_same_program_are_hardly_ever_explained() -> None:
    """A/A: each part and operator 5% noisy, two launches against three."""
    chance = random.Random(3)
    names = [(part, f"op{number}") for part in PARTS for number in range(7)]

    def side(launches: int) -> BreakdownEntry:
        return breakdown(
            {name: alone(*(chance.gauss(1, 0.05) for _ in range(launches))) for name in names}
        )

    explained = sum(bool(explain(side(3), side(2)).causes) for _ in range(500))
    assert explained <= 25, "one in twenty, of cases that regressed"


def test_what_failed_is_said() -> None:
    assert why_lines(unexplained("the profiled launches failed: rank 1 died")) == [
        "why: the profiled launches failed: rank 1 died"
    ]
    assert why_lines(None) == []


SYNC = "cudaStreamSynchronize"


def test_idle_time_of_a_gpu_is_named_by_the_wait_that_came() -> None:
    """A synchronisation costs what the host cannot issue meanwhile, not its own short time."""
    before = breakdown({("compute", "mm"): alone(9, 9), ("idle", ""): alone(1, 1)})
    rows: Rows = {
        ("compute", "mm"): alone(9, 9),
        ("idle", ""): alone(6, 6.1),
        ("idle", SYNC): alone(0.1, 0.1),
    }
    (cause,) = explain(before, breakdown(rows, 12.0)).causes
    assert (cause.part, cause.name, cause.now_calls) == ("idle", SYNC, 12.0)
    assert cause.baseline_calls == 0
    assert cause.share == pytest.approx(1, abs=0.05)

    as_often = {**rows, ("idle", ""): alone(1, 1)}
    (cause,) = explain(breakdown(as_often, 12.0), breakdown(rows, 12.0)).causes
    assert (cause.part, cause.name) == ("idle", ""), "it waits as often as before"
