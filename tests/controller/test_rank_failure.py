"""Which of several failed ranks is blamed, and what the message shows. Real ranks fail in
tests/rank/test_ranks.py."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_dnnbench.controller.oom_kills import OomWatch
from pytest_dnnbench.controller.rank_failure import failure_of, printed_by
from pytest_dnnbench.controller.rank_process import RankProcess
from pytest_dnnbench.errors import RankCrashed, RankOutOfMemory, RankRaised, WrongResult
from pytest_dnnbench.frames import RankError
from pytest_dnnbench.rank_status import StatusPage

Make = Callable[..., RankProcess]


@pytest.fixture
def rank(tmp_path: Path) -> Iterator[Make]:
    """Makes ranks that have failed: with an error that they reported, or with an exit code."""
    ranks: list[RankProcess] = []

    def make(
        number: int, error: RankError | None = None, exit_code: int | None = None, output: str = ""
    ) -> RankProcess:
        page, descriptor = StatusPage.make()
        os.close(descriptor)
        page.enter("timed steps", 4)
        page.step(2, 16)
        reading_end, writing_end = os.pipe()
        os.close(writing_end)
        log, stacks = tmp_path / f"{number}.log", tmp_path / f"{number}.stacks"
        log.write_text(output)
        ranks.append(
            RankProcess(
                number,
                pid=0,
                pipe=reading_end,
                output=log,
                stacks=stacks,
                page=page,
                error=error,
                reported=error is not None,
                exit_code=exit_code,
            )
        )
        return ranks[-1]

    yield make
    for process in ranks:
        process.close()


def raised(
    kind: str, at_s: float, step: int | None = None, *, out_of_memory: bool = False
) -> RankError:
    return RankError(kind, "planted", "Traceback: here\n", at_s, out_of_memory, step)


def test_a_rank_that_died_is_blamed_before_its_peers_that_raised(rank: Make) -> None:
    ranks = [rank(0, raised("builtins.OSError", 1.0)), rank(1, exit_code=-signal.SIGSEGV)]
    error = failure_of(ranks, OomWatch())
    assert isinstance(error, RankCrashed)
    assert error.rank == 1
    assert error.rank_phase == "timed steps"
    assert str(error) == "rank 1 of 2 died of SIGSEGV during the timed steps (2 of 4 done)"


def test_of_ranks_that_raised_the_first_is_blamed(rank: Make) -> None:
    ranks = [rank(0, raised("builtins.OSError", 2.0)), rank(1, raised("m.MyError", 1.0))]
    error = failure_of(ranks, OomWatch())
    assert isinstance(error, RankRaised)
    assert str(error) == (
        "rank 1 of 2 raised MyError during the timed steps (2 of 4 done): planted\nTraceback: here"
    )


def test_a_rank_that_knows_the_wrong_step_comes_first_and_of_these_the_earliest_step(
    rank: Make,
) -> None:
    wrong = "pytest_dnnbench.errors.WrongResult"
    ranks = [
        rank(0, raised("builtins.OSError", 1.0)),
        rank(1, raised(wrong, 2.0, step=3)),
        rank(2, raised(wrong, 3.0, step=0)),
    ]
    error = failure_of(ranks, OomWatch())
    assert isinstance(error, WrongResult)
    assert str(error) == "rank 2: planted"


def lost(frame: str) -> RankError:
    traceback = f'Traceback:\n  File "train.py", line 1, in step\n  File "{frame}", line 2, in f\n'
    return RankError("builtins.RuntimeError", "peer closed\nat line 1", traceback, 2.0, False)


IN_TORCH = "/site-packages/torch/distributed/distributed_c10d.py"


def test_what_follows_from_a_failure_is_one_line_and_its_cause_is_not_shown_twice(
    rank: Make,
) -> None:
    ranks = [
        rank(0, lost(IN_TORCH), output="epoch 1\n"),
        rank(1, raised("m.MyError", 1.0), output="about to fail\n"),
        rank(2, output="never mind\n"),
    ]
    failure = failure_of(ranks, OomWatch())
    assert [printed_by(each, failure) for each in ranks] == [
        "epoch 1\nraised RuntimeError: peer closed\n",
        "about to fail\n",
        "never mind\n",
    ]
    assert printed_by(ranks[0], None) == "epoch 1\n"


def test_of_ranks_that_waited_for_one_that_refused_nothing_is_said(rank: Make) -> None:
    refused = RankError(
        "pytest_dnnbench.errors.UsageError", "use less", "Traceback: here\n", 1.0, False
    )
    ranks = [
        rank(0, lost(IN_TORCH), output="epoch 1\n"),
        rank(1, refused, output="about to fail\n"),
        rank(2, lost("model.py")),
    ]
    failure = failure_of(ranks, OomWatch())
    assert str(failure) == "rank 1: use less"
    assert [printed_by(each, failure) for each in ranks] == [
        "epoch 1\n",
        "about to fail\n",
        "raised RuntimeError: peer closed\n",
    ]


def test_memory_that_ran_out_is_an_error_of_its_own(rank: Make) -> None:
    raised_first = raised("torch.OutOfMemoryError", 1.0, out_of_memory=True)
    error = failure_of([rank(0, raised_first)], OomWatch())
    assert isinstance(error, RankOutOfMemory)
    assert "ran out of memory (OutOfMemoryError)" in str(error)
    aborted = rank(0, exit_code=-signal.SIGABRT, output="terminate: std::bad_alloc\n")
    error = failure_of([aborted], OomWatch())
    assert isinstance(error, RankOutOfMemory)
    end = "it could not allocate memory\nits last output:\nterminate: std::bad_alloc"
    assert str(error).endswith(end)


def test_what_a_rank_says_controls_no_terminal(rank: Make) -> None:
    evil = "\x1b[31mred\x1b]0;title\x07\r\x9b2J\u202e end"
    clean = "?[31mred?]0;title???2J? end".replace("?", "\N{REPLACEMENT CHARACTER}")
    error = RankError("m.MyError", evil, f"Traceback:\n{evil}\n", 1.0, False, None)
    ranks = [rank(0, error), rank(1, error)]
    failure = failure_of(ranks, OomWatch())
    assert str(failure).endswith(f": {clean}\nTraceback:\n{clean}")
    assert printed_by(ranks[1], failure) == ""
    wrong = RankError("pytest_dnnbench.errors.WrongResult", evil, "", 1.0, False, 1)
    assert str(failure_of([rank(2, wrong)], OomWatch())) == f"rank 2: {clean}"
    crashed = failure_of([rank(3, exit_code=1, output=f"{evil}\n")], OomWatch())
    assert "its last output:" in str(crashed)
    assert all(line.isprintable() for line in str(crashed).split("\n"))
