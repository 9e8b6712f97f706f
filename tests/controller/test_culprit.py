"""Of ranks that hang, the one at fault is named, not the ones that wait for it."""

from pytest_dnnbench.controller.culprit import Seen, first_culprit
from pytest_dnnbench.rank_status import RankStatus

COLLECTIVE = 'Current thread 0x1 (most recent call first):\n  File "/x/torch/distributed/distributed_c10d.py", line 1 in wait\n'
BACKWARD = 'Current thread 0x1 (most recent call first):\n  File "/x/torch/autograd/graph.py", line 1 in _engine_run\n'
ELSEWHERE = (
    'Thread 0x2 (most recent call first):\n  File "/x/torch/distributed/distributed_c10d.py", line 1 in recv\n\n'
    'Current thread 0x1 (most recent call first):\n  File "/x/model.py", line 1 in forward\n'
    '  File "/x/torch/nn/parallel/distributed.py", line 1 in forward\n'
)
WARM, TIMED = RankStatus("warm-up", 2, 2), RankStatus("timed steps", 1, 4)


def named(*ranks: Seen) -> int:
    return first_culprit(ranks)[0].number


def test_a_stopped_rank_comes_before_all_others() -> None:
    assert named(Seen(0, WARM, ELSEWHERE), Seen(1, TIMED, "", stopped=True)) == 1


def test_a_rank_outside_of_collectives_is_at_fault_whichever_is_ahead() -> None:
    assert named(Seen(0, WARM, COLLECTIVE), Seen(1, TIMED, ELSEWHERE)) == 1
    assert named(Seen(0, TIMED, BACKWARD), Seen(1, WARM, ELSEWHERE)) == 1


def test_of_several_outside_of_collectives_the_one_behind_is_at_fault() -> None:
    assert (
        named(Seen(0, TIMED, ELSEWHERE), Seen(1, WARM, ELSEWHERE), Seen(2, TIMED, COLLECTIVE)) == 1
    )


def test_a_rank_without_stacks_waits_for_nobody() -> None:
    assert named(Seen(0, WARM, COLLECTIVE), Seen(1, WARM, "")) == 1


def test_a_rank_that_has_gone_left_its_peers_waiting() -> None:
    assert named(Seen(0, WARM, COLLECTIVE), Seen(1, RankStatus("teardown"), reported=True)) == 1


def test_where_all_wait_the_odd_one_out_is_at_fault() -> None:
    ranks = [Seen(0, TIMED, COLLECTIVE), Seen(1, TIMED, COLLECTIVE), Seen(2, WARM, COLLECTIVE)]
    assert first_culprit(ranks) == (ranks[2], "waits in another collective than the others")


def test_of_two_that_wait_the_one_ahead_has_left_something_out() -> None:
    assert named(Seen(0, WARM, COLLECTIVE), Seen(1, TIMED, BACKWARD)) == 1
    assert named(Seen(0, TIMED, COLLECTIVE), Seen(1, WARM, BACKWARD)) == 0
