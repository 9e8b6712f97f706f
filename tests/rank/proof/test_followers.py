"""Two ranks follow with a reference each where memory is plentiful, and rank 0 alone where it is
not: what is proven is the same."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch.distributed as dist

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import Correctness, Place, RunRequest
from pytest_dnnbench.rank.proof import conditions
from pytest_dnnbench.rank.proof.conditions import PLENTY, two_may_follow
from pytest_dnnbench.rank.timed_run import prove
from pytest_dnnbench.results.records.rank_agreement import agree
from tests.patience import HANG_S


def prove_apart(place: Place, request: RunRequest) -> Correctness:
    """On a rank: the proof, where memory is plentiful."""
    conditions.PLENTY = 0.0
    return prove(place, request)


def prove_alone(place: Place, request: RunRequest) -> Correctness:
    """On a rank: the proof, where memory is never plentiful."""
    conditions.PLENTY = math.inf
    return prove(place, request)


CASE = Case("planted", "tests.tiny_models:tiny", 2, "train", batch_size=4)


def results(server: ForkServer, worker: str, code: Callable[..., Any]) -> list[Correctness]:
    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S)
    request = RunRequest(CASE, worker, CASE.model, steps=1, warmup=0)
    return ranks.launch(f"{__name__}:{code.__name__}", request, returns=Correctness)


@pytest.mark.parametrize("framework", ["ddp", "fsdp"])
def test_two_ranks_prove_what_one_proves(server: ForkServer, framework: str) -> None:
    worker = Catalog().framework(framework).worker
    apart, alone = (
        agree(CASE, results(server, worker, code)) for code in (prove_apart, prove_alone)
    )
    assert apart.checked == alone.checked
    assert apart.tolerance == pytest.approx(alone.tolerance)
    for kind, deviation in alone.largest_deviation.items():
        # Apart, the losses of all ranks are compared.
        assert apart.largest_deviation[kind] == deviation or kind.startswith("loss in")


@pytest.mark.parametrize(("code", "follower"), [(prove_apart, 1), (prove_alone, 0)])
def test_a_wrong_step_is_caught_by_the_rank_that_follows_it(
    server: ForkServer, code: Callable[..., Any], follower: int
) -> None:
    ranks = results(server, "tests.rank.broken_workers:NoAllReduce", code)
    wrong = [
        {failure.partition(":")[0] for failure in correctness.failures} for correctness in ranks
    ]
    assert "gradients in float32 of the timed step" in wrong[follower]
    assert {"gradients of step 0", "parameters of step 1"} <= wrong[0]


PLACE = Place(0, 2, "cpu", 1, "", 60.0)


@pytest.mark.parametrize(
    ("of_rank_1", "free", "may"),
    [(True, PLENTY, True), (False, PLENTY, False), (True, PLENTY - 0.01, False)],
)
def test_both_ranks_need_plenty_of_memory(
    of_rank_1: bool, free: float, may: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gather(answers: list[bool], own: bool) -> None:
        answers[:] = [own, of_rank_1]

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_gather_object", gather)
    monkeypatch.setattr(conditions, "free_bytes", lambda device: int(free * 8000))
    assert two_may_follow(PLACE, 1000) is may


def test_ranks_without_a_group_of_torchs_follow_one_after_the_other() -> None:
    assert not two_may_follow(PLACE, 1)
