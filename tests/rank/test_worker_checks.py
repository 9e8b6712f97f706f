"""What a framework's worker gives to the timed run is held against what it promises."""

from collections.abc import Iterator
from typing import Any

import pytest
from torch import nn

from pytest_dnnbench.case import Case
from pytest_dnnbench.errors import UsageError, WrongResult
from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank import timed_run, timed_window
from pytest_dnnbench.rank.frameworks.single import SingleWorker
from pytest_dnnbench.rank.timed_run import measure
from pytest_dnnbench.rank.worker import Step
from pytest_dnnbench.rank.worker_checks import check_pace
from pytest_dnnbench.run_length import Length
from tests.rank.turn_taking import TakesTurns


class ReturnsAList(TakesTurns):
    """All steps have run when `run` returns."""

    def run(self, steps: int) -> Any:
        """A list, where an iterator is asked for."""
        return list(super().run(steps))


class WorkedClock:
    """A clock on which only work takes time: no other process can make a step longer."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        """Seconds of work so far."""
        return self.now_s


CLOCK = WorkedClock()


class RunsAhead(TakesTurns):
    """All steps have run when the first one is asked for. Its steps take time on CLOCK alone."""

    def run(self, steps: int) -> Iterator[Step]:
        """An iterator, of what is over."""
        yield from list(super().run(steps))

    def work(self) -> None:
        """A millisecond."""
        CLOCK.now_s += 0.001


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


def measured(worker: str, warmup: Length = 1) -> None:
    """The timed run of one of the workers here, in this process."""
    request = RunRequest(
        Case("mine", "m", 1, "train", batch_size=2, options={"run_on": 0}),
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


def test_steps_that_ran_before_they_were_asked_for_are_not_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (timed_run, timed_window):
        monkeypatch.setattr(module, "monotonic", CLOCK.monotonic)
    with pytest.raises(WrongResult, match="the timed steps ran before they were asked for"):
        measured("RunsAhead", warmup="auto")


def test_a_busy_machines_slow_warm_up_is_no_reason() -> None:
    check_pace(1e-3, 99e-3)
    check_pace(1e-3, None)
    with pytest.raises(WrongResult, match=r"a timed step took 0\.001 s, .* whole run, 0\.11 s"):
        check_pace(1e-3, 0.11)
