"""What a framework's worker gives to the timed run is held against what it promises."""

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from torch import nn

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.errors import UsageError, WrongResult
from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank.frameworks.single import SingleWorker
from pytest_dnnbench.rank.timed_run import measure
from pytest_dnnbench.rank.warmup import LEAST_STEPS
from pytest_dnnbench.rank.worker import Step
from pytest_dnnbench.rank.worker_checks import (
    PACE_RUNS,
    PACE_STEPS,
    is_over_at_first,
    seems_ahead,
)
from pytest_dnnbench.run_length import Length
from tests.rank.turn_taking import TakesTurns
from tests.worked_clock import CLOCK, time_by_work


class ReturnsAList(TakesTurns):
    """All steps have run when `run` returns."""

    def run(self, steps: int) -> Any:
        """A list, where an iterator is asked for."""
        return list(super().run(steps))


class RunsAhead(TakesTurns):
    """All steps have run when the first one is asked for. Its steps take time on CLOCK alone."""

    def run(self, steps: int) -> Iterator[Step]:
        """An iterator, of what is over."""
        yield from list(super().run(steps))

    def work(self) -> None:
        """A millisecond."""
        CLOCK.work(0.001)


class MeetsABusyMachine(TakesTurns):
    """Its first steps take a second on CLOCK, as beside other work, all others a millisecond."""

    steps = 0

    def work(self) -> None:
        """A second, or a millisecond."""
        self.steps += 1
        CLOCK.work(1.0 if self.steps <= LEAST_STEPS else 0.001)


class SharesTurns(MeetsABusyMachine):
    """A rank of a stage of one replica, or of two, of the same pipeline; notes how long its runs
    are."""

    lengths: ClassVar[list[int]] = []
    turn = 2

    def run(self, steps: int) -> Iterator[Step]:
        """Every step, or every second one."""
        self.lengths.append(steps)
        self.began_s = []
        for index in range(0, steps, self.stride):
            self.work()
            yield Step(index, 1, None)

    @property
    def stride(self) -> int:
        """As the case's options say."""
        return int(self.case.options["stride"])


class ListsItsFigures(TakesTurns):
    """Figures without names."""

    def metrics(self) -> Any:
        """A list, where a dict is asked for."""
        return [1.0]


class WrapsNothing(SingleWorker):
    """A `wrap` that changes the model and forgets to return it."""

    def wrap(self, module: nn.Module, optimizer: Any) -> Any:
        """Nothing."""


NO_WORKER = WrapsNothing.wrap


def measured(worker: str, warmup: Length = 1, **options: Scalar) -> None:
    """The timed run of one of the workers here, in this process."""
    request = RunRequest(
        Case("mine", "m", 1, "train", batch_size=2, options={"run_on": 0, **options}),
        f"{__name__}:{worker}",
        "tests.tiny_models:tiny",
        steps=3,
        warmup=warmup,
    )
    measure(Place(0, 1, "cpu", 1, "", 60.0), request)


@pytest.mark.parametrize(
    ("worker", "message"),
    [
        ("ReturnsAList", r"ReturnsAList\.run returned a list: let it yield each step when"),
        ("ListsItsFigures", r"ListsItsFigures\.metrics returned \[1\.0\]: let it return a dict"),
        ("WrapsNothing", r"WrapsNothing\.wrap returned NoneType: let it return the model and its"),
        ("NO_WORKER", r"NO_WORKER'.* is <function .*: let it be a subclass of .*\.Worker"),
    ],
)
def test_a_worker_that_breaks_its_promise_is_told_which(worker: str, message: str) -> None:
    """A list of steps was recorded at five million images a second: its clock measured nothing."""
    with pytest.raises(UsageError, match=message):
        measured(worker)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timed run reads CLOCK."""
    time_by_work(monkeypatch)


@pytest.mark.usefixtures("clock")
def test_steps_that_ran_before_they_were_asked_for_are_not_timed() -> None:
    with pytest.raises(WrongResult, match="the timed steps ran before they were asked for"):
        measured("RunsAhead", warmup="auto")


@pytest.mark.usefixtures("clock")
def test_a_warm_up_that_other_work_made_slow_is_no_reason() -> None:
    """Steps of a thousandth of the warm-up's failed as if they had run before: of 45 launches of a
    small model on a busy machine one did."""
    begin_s = CLOCK.now_s
    measured("MeetsABusyMachine", warmup="auto")
    assert CLOCK.now_s - begin_s == pytest.approx(LEAST_STEPS + (1 + 3 + 5 * 8) * 0.001)


@pytest.mark.usefixtures("clock")
def test_stages_of_one_replica_and_of_two_look_into_their_pace_in_runs_of_one_length() -> None:
    """Each asked for as many steps of its own: stages with more replicas waited for ever."""
    SharesTurns.lengths.clear()
    measured("SharesTurns", warmup="auto", stride=1)
    alone = SharesTurns.lengths[-PACE_RUNS:]
    measured("SharesTurns", warmup="auto", stride=2)
    assert alone == SharesTurns.lengths[-PACE_RUNS:] == [2 * PACE_STEPS] * PACE_RUNS


def test_a_step_has_to_be_a_hundred_times_shorter_to_be_suspected() -> None:
    assert not seems_ahead(1e-3, 99e-3)
    assert seems_ahead(1e-3, 0.11)


def test_a_run_is_over_at_its_first_step_where_all_others_take_next_to_nothing() -> None:
    assert is_over_at_first([1.0, 1.0, 1.0])
    assert is_over_at_first([1.0, 1.004, 1.008])
    assert not is_over_at_first([1.0, 1.02, 1.04])
    assert not is_over_at_first([1.0, 2.0, 3.0])
    assert not is_over_at_first([1.0])
    assert not is_over_at_first([])
