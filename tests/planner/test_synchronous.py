"""What each of torch's schedules needs, before any rank starts."""

import pytest

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.synchronous import RULES, pipelines_of, schedule_fits


def test_by_default_all_ranks_make_one_pipeline_with_a_microbatch_per_rank() -> None:
    for framework in RULES:
        made = pipelines_of(framework, 4, {})
        assert (made.ranks, made.replicas) == (4, 1)
        assert made.microbatches == {"dualpipev": 8, "mp": 1}.get(framework, 4)
        assert made.stages == (4 if framework in ("mp", "gpipe", "1f1b") else 8)


def test_one_minibatch_at_a_time_is_one_per_replica_whatever_is_asked_for_others() -> None:
    made = pipelines_of("mp", 4, {"stages": 2, "microbatches": 8})
    assert (made.ranks, made.replicas, made.microbatches) == (2, 2, 2)


def test_stages_lie_in_a_loop_or_as_a_v() -> None:
    loop, v = pipelines_of("interleaved", 3, {}), pipelines_of("zbv", 3, {})
    assert [loop.stages_of(place) for place in range(3)] == [(0, 3), (1, 4), (2, 5)]
    assert [v.stages_of(place) for place in range(3)] == [(0, 5), (1, 4), (2, 3)]
    assert [v.place_of(stage) for stage in range(6)] == [0, 1, 2, 2, 1, 0]
    assert pipelines_of("zbv", 3, {"stages_per_rank": 3}).stages == 6, "a V has two per rank"
    three = pipelines_of("bfs", 2, {"stages_per_rank": 3})
    assert [three.stages_of(place) for place in range(2)] == [(0, 2, 4), (1, 3, 5)]


@pytest.mark.parametrize("stages", [2, "2-2"])
def test_fewer_stages_than_ranks_make_replicas(stages: int | str) -> None:
    made = pipelines_of("1f1b", 4, {"stages": stages})
    assert (made.ranks, made.replicas, made.microbatches) == (2, 2, 4)
    assert made.accumulation().layout.replicas == (2, 2)
    assert [made.layout.place(rank) for rank in range(4)] == [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("framework", "ranks", "options", "runs"),
    [
        ("gpipe", 1, {}, False),
        ("gpipe", 3, {"stages": 2}, False),
        ("gpipe", 4, {"stages": "2-2"}, True),
        ("gpipe", 2, {"stages": "2-2"}, False),
        ("gpipe", 4, {"stages": 1}, False),
        ("gpipe", 4, {"stages": 2, "replicas": "fsdp"}, True),
        ("gpipe", 2, {"stages": 2, "replicas": "fsdp"}, False),
    ],
)
def test_other_numbers_of_ranks_may_fit(
    framework: str, ranks: int, options: dict[str, int | str], runs: bool
) -> None:
    assert schedule_fits(framework, ranks, options) is runs


@pytest.mark.parametrize(
    ("framework", "options", "message"),
    [
        ("gpipe", {"stages": "2-1"}, "stages 2-1 does not fit gpipe, .* as many replicas of every"),
        ("gpipe", {"stages": "x"}, "stages 'x': write a number"),
        ("bfs", {"stages_per_rank": 1}, "bfs is for several stages per rank"),
        ("bfs", {"stages_per_rank": -1}, "--dnn-stages-per-rank is -1: give at least 1"),
        ("1f1b", {"microbatches": 3}, "1f1b on pipelines of 4 ranks needs at least 4 microbatches"),
        ("dualpipev", {"microbatches": 7}, "needs at least 8 microbatches, not 7"),
        ("interleaved", {"microbatches": 9}, "in 2 rounds, .* give --dnn-microbatches 8"),
        ("gpipe", {"stages": 2, "microbatches": 3}, "do not divide over 2 replicas"),
        ("gpipe", {"replicas": "fsdp"}, "gpipe makes one pipeline of 4 ranks, with no replica"),
    ],
)
def test_what_a_schedule_cannot_have_is_refused_in_one_line(
    framework: str, options: dict[str, int | str], message: str
) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        schedule_fits(framework, 4, options)
    assert "\n" not in str(caught.value)
