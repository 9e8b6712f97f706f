"""Time lines made by hand: each moment of a step counts once, as the right part."""

import random

import pytest

from pytest_dnnbench.rank.breakdown.events import CPU_ORDER
from pytest_dnnbench.rank.breakdown.timeline import Divided, Span, divide
from pytest_dnnbench.step_parts import PARTS, Part


def divided(*spans: Span, window: tuple[int, int] = (0, 100)) -> Divided:
    return divide(spans, window, CPU_ORDER)


def by_part(*spans: Span, window: tuple[int, int] = (0, 100)) -> dict[str, int]:
    totals: dict[str, int] = {}
    for (part, _), ns in divided(*spans, window=window).ns.items():
        totals[part] = totals.get(part, 0) + ns
    return totals


def work(start: int, end: int, part: Part | None = "compute", lane: int | None = 0) -> Span:
    return Span(start, end, part, part or "", lane, owner=part in ("data", "optimizer"))


def test_nothing_is_idle() -> None:
    assert divided().ns == {("idle", ""): 100}


def test_only_communication_that_overlaps_no_compute_is_exposed() -> None:
    assert by_part(work(10, 40), work(20, 70, "communication", None)) == {
        "compute": 30,
        "communication": 30,
        "idle": 40,
    }


def test_what_is_nested_counts_once_and_the_innermost_names_it() -> None:
    outer = Span(0, 60, "compute", "linear")
    middle = Span(10, 50, "compute", "addmm")
    inner = Span(20, 30, "compute", "copy")
    assert divided(middle, inner, outer).ns == {
        ("compute", "linear"): 20,
        ("compute", "addmm"): 30,
        ("compute", "copy"): 10,
        ("idle", ""): 40,
    }


def test_communication_inside_an_operator_is_communication() -> None:
    """A collective that an operator's backward pass waits for: the rank computes nothing."""
    assert by_part(work(0, 100), work(30, 80, "communication")) == {
        "compute": 50,
        "communication": 50,
    }


def test_compute_inside_a_wait_is_compute() -> None:
    assert by_part(work(0, 100, "communication"), work(30, 40)) == {
        "compute": 10,
        "communication": 90,
    }


@pytest.mark.parametrize("owner", ["data", "optimizer"])
def test_operators_of_the_loader_and_of_the_update_are_theirs(owner: Part) -> None:
    assert by_part(work(0, 50, owner), work(10, 40), work(60, 70)) == {
        owner: 50,
        "compute": 10,
        "idle": 40,
    }


def test_two_threads_that_compute_at_once_count_once() -> None:
    assert by_part(work(0, 50), work(20, 80, lane=1)) == {"compute": 80, "idle": 20}


def test_several_collectives_under_way_count_once_and_the_oldest_names_them() -> None:
    first = Span(0, 50, "communication", "first", None)
    second = Span(10, 80, "communication", "second", None)
    assert divided(first, second, work(70, 90)).ns == {
        ("communication", "first"): 50,
        ("communication", "second"): 20,
        ("compute", "compute"): 20,
        ("idle", ""): 10,
    }


def test_a_transfer_is_communication_and_the_wait_before_it_a_bubble() -> None:
    assert by_part(work(0, 80, "bubble"), work(50, 80, "communication", 1)) == {
        "bubble": 50,
        "communication": 30,
        "idle": 20,
    }


def test_a_mark_without_a_part_names_the_idle_time() -> None:
    forward = Span(0, 100, None, "forward")
    assert divided(forward, work(20, 50)).ns == {
        ("compute", "compute"): 30,
        ("idle", "forward"): 70,
    }


def test_what_reaches_over_the_window_is_cut_and_calls_count_where_they_begin() -> None:
    result = divided(work(50, 150), work(160, 180), work(190, 250), window=(100, 200))
    assert result.ns == {("compute", "compute"): 80, ("idle", ""): 20}
    assert result.calls == {"compute": 2}


def test_a_span_that_outlives_what_it_began_in_counts_to_its_end() -> None:
    assert by_part(work(0, 30, "communication"), work(20, 60)) == {
        "communication": 20,
        "compute": 40,
        "idle": 40,
    }


def test_against_one_nanosecond_after_the_other() -> None:
    """The same answer as a reference that looks at each nanosecond by itself."""
    chance = random.Random(1)
    for _ in range(200):
        spans = _random_spans(chance)
        expected: dict[str, int] = {}
        for moment in range(100):
            part = _part_at(moment, spans)
            expected[part] = expected.get(part, 0) + 1
        assert by_part(*spans) == expected, spans


def _random_spans(chance: random.Random) -> list[Span]:
    """Properly nested on two lanes, and some on none."""
    made: list[Span] = []

    def fill(start: int, end: int, lane: int) -> None:
        while end - start > 2 and chance.random() < 0.8:
            begin = chance.randrange(start, end - 1)
            stop = chance.randrange(begin + 1, end)
            part = chance.choice([*PARTS, None])
            made.append(work(begin, stop, part, lane))
            if stop - begin > 3:
                fill(begin + 1, stop - 1, lane)
            start = stop

    fill(0, 100, 0)
    fill(-20, 130, 1)
    for _ in range(chance.randrange(3)):
        begin = chance.randrange(-10, 100)
        made.append(work(begin, begin + chance.randrange(1, 60), "communication", None))
    return made


def _part_at(moment: int, spans: list[Span]) -> str:
    here = [each for each in spans if each.start <= moment < each.end]
    parts = [str(each.part) for each in here if each.lane is None]
    for lane in (0, 1):
        # From the outermost in: an owner ends the search, the innermost part stands otherwise.
        nested = sorted(
            (each for each in here if each.lane == lane), key=lambda each: (each.start, -each.end)
        )
        part: str = "idle"
        for each in nested:
            part = each.part or part
            if each.owner:
                break
        parts.append(part)
    return next((part for part in CPU_ORDER if part in parts), "idle")
