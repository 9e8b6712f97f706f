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
    PACE_TURNS,
    ran_ahead,
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


class RunsAheadAfterASetUp(RunsAhead):
    """Each of its runs begins with a set-up as long as 40 of its steps."""

    def run(self, steps: int) -> Iterator[Step]:
        """An iterator, of what is over."""
        CLOCK.work(0.04)
        yield from super().run(steps)


class SetsUpEveryRun(TakesTurns):
    """Each of its runs begins with a set-up as long as many of its steps, and nearly as long as
    that of the run before: no two take equally long, and each sixth is hit by other work."""

    runs = 0

    def run(self, steps: int) -> Iterator[Step]:
        """Every step when it is asked for."""
        self.runs += 1
        set_up_s = int(self.case.options["set_up_steps"]) * 0.001
        CLOCK.work(set_up_s * (1 + 0.02 * (self.runs * 7 % 5)) + (1.0 if self.runs % 6 == 0 else 0))
        yield from super().run(steps)

    def work(self) -> None:
        """A millisecond."""
        CLOCK.work(0.001)


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
@pytest.mark.parametrize("worker", ["RunsAhead", "RunsAheadAfterASetUp"])
def test_steps_that_ran_before_they_were_asked_for_are_not_timed(worker: str) -> None:
    with pytest.raises(WrongResult, match="the timed steps ran before they were asked for"):
        measured(worker, warmup="auto")


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("set_up_steps", [99, 150, 1_000, 100_000])
def test_a_set_up_in_every_run_is_no_work_ahead(set_up_steps: int) -> None:
    """A run of 8 steps was over at its first step, where the set-up took as long as 100."""
    measured("SetsUpEveryRun", warmup="auto", set_up_steps=set_up_steps)


@pytest.mark.usefixtures("clock")
def test_a_warm_up_that_other_work_made_slow_is_no_reason() -> None:
    """Steps of a thousandth of the warm-up's failed as if they had run before: of 45 launches of a
    small model on a busy machine one did."""
    begin_s = CLOCK.now_s
    measured("MeetsABusyMachine", warmup="auto")
    assert CLOCK.now_s - begin_s == pytest.approx(LEAST_STEPS + (1 + 3 + 5 * (1 + 9)) * 0.001)


@pytest.mark.usefixtures("clock")
def test_stages_of_one_replica_and_of_two_look_into_their_pace_in_runs_of_one_length() -> None:
    """Each asked for as many steps of its own: stages with more replicas waited for ever."""
    SharesTurns.lengths.clear()
    measured("SharesTurns", warmup="auto", stride=1)
    alone = SharesTurns.lengths[-2 * PACE_RUNS :]
    measured("SharesTurns", warmup="auto", stride=2)
    assert alone == [2, 2 + 2 * PACE_TURNS] * PACE_RUNS
    assert SharesTurns.lengths[-2 * PACE_RUNS :] == alone


def test_a_step_has_to_be_a_hundred_times_shorter_to_be_suspected() -> None:
    assert not seems_ahead(1e-3, 99e-3)
    assert seems_ahead(1e-3, 0.11)


def runs(first_s: list[float], steps: int, between_s: float) -> list[list[float]]:
    """Runs whose first steps are complete at these moments, and the others so long after it."""
    return [[first + between_s * step for step in range(steps)] for first in first_s]


def test_a_first_step_that_comes_later_in_longer_runs_shows_work_ahead() -> None:
    """On made-up times: of steps of 1 s that all run first, and of a set-up of 200 s."""
    short, ahead = runs([1.0] * 5, 1, 0.0), runs([9.0] * 5, 9, 0.001)
    assert ran_ahead(short, ahead)
    assert ran_ahead(runs([1.0, 1.0, 12.0, 1.0, 1.0], 1, 0.0), ahead), "one short run was hit"
    assert not ran_ahead(short, runs([9.0] * 5, 9, 0.02)), "8 s are less than 100 of the steps"
    set_up = runs([203.0, 201.0, 204.0, 202.0, 205.0], 1, 0.0)
    assert not ran_ahead(set_up, runs([204.0, 202.0, 201.0, 205.0, 203.0], 9, 0.001))
    assert not ran_ahead(set_up, runs([206.0, 207.0, 206.0, 208.0, 207.0], 9, 0.001)), (
        "by less than the short runs differ"
    )
    assert not ran_ahead(short, runs([9.0, 9.0, 1.0, 9.0, 9.0], 9, 0.001)), "by other work"
    assert not ran_ahead(short, short), "no more steps"
