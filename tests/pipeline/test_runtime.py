"""Ranks of a pipeline: any number of minibatches, validation, and what happens when one of them is
lost."""

from collections.abc import Callable
from itertools import pairwise

import pytest

from pytest_dnnbench.controller.pipeline_stages import pipeline_stages, replicas_of
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import PlanError, RankCrashed, RankFailure, RankRaised
from tests.pipeline import models, programs

CpuRanks = Callable[[int], Ranks]


@pytest.mark.parametrize("minibatches", [0, 1, 2, 5, 12])
def test_every_rank_completes_its_minibatches_in_order(
    cpu_ranks: CpuRanks, minibatches: int
) -> None:
    pipeline = pipeline_stages(cpu_ranks, models.chain2, "2-1")
    assert pipeline.run(programs.order, minibatches) == [
        list(range(0, minibatches, 2)),
        list(range(1, minibatches, 2)),
        list(range(minibatches)),
    ]


def test_validation_passes_every_minibatch_in_evaluation_mode(cpu_ranks: CpuRanks) -> None:
    pipeline = pipeline_stages(cpu_ranks, models.chain3, (1, 2, 1))
    assert pipeline.run(programs.evaluated, 40) == [
        (list(range(40)), False),
        (list(range(0, 40, 2)), False),
        (list(range(1, 40, 2)), False),
        (list(range(40)), False),
    ]


@pytest.mark.parametrize(("model", "shape"), [(models.chain2, "1-1"), (models.chain3, "1-1-1")])
def test_an_early_stage_does_not_run_ahead_in_validation(
    cpu_ranks: CpuRanks, model: Callable[..., object], shape: str
) -> None:
    """Its messages queued up in front of a slow stage, and its memory peak with them."""
    pipeline = pipeline_stages(cpu_ranks, model, shape)
    slow_s = 0.02
    stamps = pipeline.run(programs.stamped, 16, slow_s)
    stages = len(stamps)
    for stage, (ours, next_stage) in enumerate(pairwise(stamps)):
        room = (stages - 1 - stage) + 2  # minibatches in flight in training, and one on its way
        for number in range(room + 1, 16):
            # The next stage gives the receipt before its stamp, and after its stamp of the
            # minibatch before. The last stage is slow in between.
            before_s = next_stage[number - room - 1] + (slow_s if stage == stages - 2 else 0.0)
            assert ours[number] > before_s, "it began before the receipt came"


@pytest.mark.parametrize("shape", ["2-1", "1-2"])
def test_validations_and_trainings_may_follow_each_other(cpu_ranks: CpuRanks, shape: str) -> None:
    pipeline = pipeline_stages(cpu_ranks, models.chain2, shape)
    every, even, odd = list(range(8)), [0, 2, 4, 6], [1, 3, 5, 7]
    ranks = [even, odd, every] if shape == "2-1" else [every, even, odd]
    assert pipeline.run(programs.validated_twice, 8) == [3 * own for own in ranks]


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_rank_that_raises_fails_the_launch_by_its_own_error(
    cpu_ranks: CpuRanks, rank: int
) -> None:
    pipeline = pipeline_stages(cpu_ranks, models.chain3, 3)
    with pytest.raises(RankRaised, match="planted") as caught:
        pipeline.run(programs.die_in_the_middle, rank, "raised")
    assert caught.value.rank == rank


def test_a_rank_that_is_killed_is_named_and_nobody_hangs(cpu_ranks: CpuRanks) -> None:
    pipeline = pipeline_stages(cpu_ranks, models.chain3, 3)
    with pytest.raises(RankCrashed, match="rank 1 of 3 died of SIGKILL"):
        pipeline.run(programs.die_in_the_middle, 1, "killed")


def test_a_lost_peer_is_an_exception_in_the_computing_thread(
    cpu_ranks: CpuRanks, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The surviving rank has to report its error, however busy the machine is.
    monkeypatch.setattr("pytest_dnnbench.controller.ranks.GRACE_S", 30.0)
    pipeline = pipeline_stages(cpu_ranks, models.chain2, 2)
    with pytest.raises(RankFailure) as caught:
        pipeline.run(programs.outlive_a_peer)
    output = pipeline.ranks.outputs[0]
    assert "from rank 1 failed" in output or "to rank 1 failed" in output, caught.value
    assert "['MainThread']" in output


def test_stages_that_do_not_fit_the_model_are_refused(cpu_ranks: CpuRanks) -> None:
    with pytest.raises(PlanError, match="cut into 3 stages, the plan 1-1 has 2"):
        pipeline_stages(cpu_ranks, models.chain3, 2).run(programs.order, 1)
    with pytest.raises(PlanError, match="at least one"):
        pipeline_stages(cpu_ranks, models.chain3, "2-0")


def test_stages_may_be_a_number_a_text_or_a_sequence() -> None:
    assert replicas_of(3) == replicas_of("3") == replicas_of([1, 1, 1]) == (1, 1, 1)
    assert replicas_of("2-1") == replicas_of((2, 1)) == (2, 1)
