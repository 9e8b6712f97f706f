"""In a hang, the rank at fault is blamed, not the ranks that wait for it."""

import importlib.util
from pathlib import Path

import pytest

from pytest_dnnbench.controller.culprit import (
    WAITING_MODULES,
    WAITING_PACKAGES,
    RankSnapshot,
    first_culprit,
    waits_in,
)
from pytest_dnnbench.rank_status import RankStatus


def dump(*frames: str, thread: str = "Current thread") -> str:
    """The stack of one thread, as faulthandler writes it, the innermost frame first."""
    lines = [f'  File "/x/{frame}", line 1 in f\n' for frame in frames]
    return f"{thread} 0x1 (most recent call first):\n{''.join(lines)}"


COLLECTIVE = dump("torch/distributed/distributed_c10d.py")
BACKWARD = dump("torch/autograd/graph.py")
ELSEWHERE = (
    dump("torch/distributed/distributed_c10d.py", thread="Thread")
    + "\n"
    + dump("model.py", "torch/nn/parallel/distributed.py")
)
WARM, TIMED = RankStatus("warm-up", 2, 2), RankStatus("timed steps", 1, 4)


def blamed(*ranks: RankSnapshot) -> int:
    return first_culprit(ranks)[0].number


@pytest.mark.parametrize("name", WAITING_MODULES)
def test_our_modules_in_which_ranks_wait_are_recognised_where_they_lie(name: str) -> None:
    specification = importlib.util.find_spec(name)
    assert specification is not None, "it has moved: correct WAITING_MODULES"
    assert specification.origin is not None
    assert waits_in(specification.origin)


@pytest.mark.parametrize("name", WAITING_PACKAGES)
def test_packages_in_which_ranks_wait_are_recognised_where_they_lie(name: str) -> None:
    top, _, below = name.partition(".")
    specification = importlib.util.find_spec(top)
    assert specification is not None
    assert specification.origin is not None
    folder = Path(specification.origin).parent / below.replace(".", "/")
    assert folder.is_dir(), "it has moved: correct WAITING_PACKAGES"
    assert waits_in(f"{folder}/any.py")


def test_a_file_of_the_users_own_is_no_collective() -> None:
    assert not waits_in("/home/user/rank/group.py")
    assert not waits_in("/home/user/torch_distributed/train.py")


def test_a_stopped_rank_comes_before_all_others() -> None:
    assert blamed(RankSnapshot(0, WARM, ELSEWHERE), RankSnapshot(1, TIMED, "", stopped=True)) == 1


def test_a_rank_outside_of_collectives_is_at_fault_whichever_is_ahead() -> None:
    assert blamed(RankSnapshot(0, WARM, COLLECTIVE), RankSnapshot(1, TIMED, ELSEWHERE)) == 1
    assert blamed(RankSnapshot(0, TIMED, BACKWARD), RankSnapshot(1, WARM, ELSEWHERE)) == 1


def test_of_several_outside_of_collectives_the_one_behind_is_at_fault() -> None:
    assert (
        blamed(
            RankSnapshot(0, TIMED, ELSEWHERE),
            RankSnapshot(1, WARM, ELSEWHERE),
            RankSnapshot(2, TIMED, COLLECTIVE),
        )
        == 1
    )


def test_a_rank_without_stacks_waits_for_nobody() -> None:
    assert blamed(RankSnapshot(0, WARM, COLLECTIVE), RankSnapshot(1, WARM, "")) == 1


def test_a_rank_that_has_gone_left_its_peers_waiting() -> None:
    assert (
        blamed(
            RankSnapshot(0, WARM, COLLECTIVE),
            RankSnapshot(1, RankStatus("teardown"), reported=True),
        )
        == 1
    )


def test_where_all_wait_the_odd_one_out_is_at_fault() -> None:
    ranks = [
        RankSnapshot(0, TIMED, COLLECTIVE),
        RankSnapshot(1, TIMED, COLLECTIVE),
        RankSnapshot(2, WARM, COLLECTIVE),
    ]
    assert first_culprit(ranks) == (ranks[2], "waits in another collective than the others")


def test_of_two_that_wait_the_one_ahead_has_left_something_out() -> None:
    assert blamed(RankSnapshot(0, WARM, COLLECTIVE), RankSnapshot(1, TIMED, BACKWARD)) == 1
    assert blamed(RankSnapshot(0, TIMED, COLLECTIVE), RankSnapshot(1, WARM, BACKWARD)) == 0


def test_a_rank_that_synchronises_its_gpu_waits_for_its_peers() -> None:
    assert waits_in("/site-packages/torch/cuda/__init__.py")
    assert not waits_in("/home/user/cuda/model.py")
